"""Letters and digits as small pictures, for the labels of the set of marks.

Drawn once from the font Aileron Regular of Sora Sagano (CC0 1.0), at 12 pixels, as the model's labels are.
"""

from __future__ import annotations

import zlib
from base64 import b85decode
from dataclasses import dataclass
from functools import cache

CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SHIFT = 8
_DATA = (
    "c-oa$3s_Xu7XD|>%$ze1U;tlGAQa+J6GY1TDnB&2cDeaw_uALJ*44VGw={31W@cg!Q?O7z#AiOx%uKFjKFW+QA7PlJ7v&*yW"
    "_at!+jr(MWah5D4-BO8Sp#SN`<%Vj+H0@1_Fj97k`Q2%1knuZmb30u9aii#*h?qrE<6albTGtg1s-kacLTuSpWENs`-oErD4"
    "o<UCo(-|!C*#0;V<(VQ`IK}WEHsmBWi=1%=puBSH9e*E(#0sp7|7rJ5K{)>V6{q8smXJ<r4vW(G0+npF$s3v?+@6Q>XZ|#jY"
    "P?hE|5)&BCWA0}nJ3kM+|xfydR_7;2j`kFUB9h;LbvBk41?`E7AmY_yZOox~+G8|zJ#QA9Rq_{|)S|M;323VT%~$2D(p!$X="
    "}N|i?u7>BI!bM)EM_ZKoR?UApzij|Dc-g;R1$ZuJGpn2DtkO1<Y`?X=fLp5`AC1cJKaYJoYrX>18fa%W4Z2_3DPZYMUL&-xx"
    "^ejK`gyUsPE%$hqm;%0C9^oY=31^JgC=w4><Fmz(cBdg|N3HV%lh2HA$%-=<*zj2ki1cX+BD&;5B0ZXW6HUz`64-n<(RbGp@"
    "o%~ZzFCkNL%wsmazgcWlc3MsALcQVV_Sr>S$gxvG>mAys5TBVoPJF&Z7AS<_qXWlCqS3}CE^b{mCeDOdU|eg)hsh0_XC}{d$"
    "!%fO#WXmpTGs=Wg6|fE+J%#GjB$@A&vT`evE=S=v5krr~?(nPmn!E(qj}wgnj2wl7P=&$KM>lP<zBvKLgJ@KijUt`s=-jQ_;"
    "f{f%H~jZk=O+*XpyNJxD&7=BQb2l07T*mLKNJ-af!shfGq4JuiC$fiZ=$H$!JTJWW<pE0uZrP77@76y@K*h84PA?gx#nBsns"
    "+Z<~&3HG4uS!NRdO6QOkj5xS?MWIQA-#YFRO$A@*bvpiMB`fR-=S2eWW1&mU|nVvza*%JmNso1qvXU$d7b7yt&47Jk&DYMl1"
    "z8)*r3YH_uhU-1a0sF!|6zIx4v5mYJ7K_j4!E*3*1aEb?()5C)x7j4U!Gf4MgKbxm!=tYQ-+7cryIYl#WV8p+P!?ELDisS=t"
    "ksPC^$tePyoTJq#8QbZSvqlV272u%uUKXEC8IX^4mwY%7$LW%VtSG6?TeV7Wsd;)nr1^+DoBEr#Pw$DM(tzgAL|OBF59hL^0"
    "m?D)O1sK;RjL<O9W4s1k&66PFetR>)A!DukD{LiJWCj^F5sNy%Jly4Fc11oBv<+_WDg$$rwxlvWT*p;jB(v?yO3by|3V<tMr"
    "t~-XIKS&sCOX{82kye!EtCyiKHTo`ZR65vFlZ4er)cohjnC$)!+=e6mq*&41N&BOG|Lh$rcg^X+f#eenO-Maje@dBp$l!noD"
    "3=$b%(G|O+JOjZq&krLQwAXhBTlRfW1_S$YqT9ah-=l(+SsqzC6fj2^svB&Sqbek~{5A3<LJ<>lE0V@jQTf*>E4W>FPPCjN3"
    "1)EJ2jArymX&+CZO+8W@`6d$8Ml0A@=(cwW%*_E{G)|53=rC5bs3UYcR7|Nap0AoZ0#h^==-(jB-2}{8j>u*KM;-wRM)s~Dm"
    "&{l;Ih_Uyt@<jS&HIp(Z7Gs5h$od}9PDjx0X0LHX5onw-ypJHH>wzE6YGWKY#1*F=iPl^=qKZV9e+QC_g<~^2PPlegv1jEnM"
    "!XmtgW-jNg_E(WErwO6((mA`ZPwp@d<If_<dCm0^^0HZ0NZ;XK6w7I}<p2Cv=Bigt2U#sUt&*|4RFAoqm2cFh2`&qYg(O1xg"
    "<5d77s1_QK~gNq)e||31w0lqh^(Oy^3aBAIAH)pYO*Lmn}c6SJv4dDxd7Z0?g!n#j}50|7(9%k;i*FYCJDrp?Vy>QbxAs(ES"
    "*DmoR%@ZAOJth(V;{K!&*foEX6)DL*)a!t+EH-OUNz_Uj&ph-^!?po;E>lyFYFL%}kkK!mE&ci(A6o=RrZI4(4>Z`8%kCE5*"
    "tgSo~;+i?6>|}DzoL**02qZmbGHldQMOi|a;2r|&_SF>Hmzevn7y~@4+QMHK>CtJY1+k5Pu>r@ZoKRNikaTts{P(^?Z{tgxr"
    "Sk;%rp!hv&*{gF(m&U5ueLOnZqo2Er-rmdIVPRdaQz1ijnk@wx%{RObe%H&M&EYz^1dQ;-=|Fc{d)Fxqep|Tt~;VsuA;0>sP"
    "2!zyc}}fBw`r0TL|#<(mWPP`$li2+zp9;d4yCHG9GqLd&(^%HlHb->~iELsvVjoU(x9n`3$PmJMsC-&`otl?RtjoQr>Q*rf5"
    "bZZs-tmS!hVa{6l!G*m+p?9YQ(d#A6nQ2^AqsFuEp&2?Z;EVJfa4-p5sW7uQYD6py?-NE_f?McWdEL)##BU-f<`cpK<9#Ucq"
    "oJUX)X5Pj9v(_Bx}nJvDO8k=daNm)gW@f(2rG1Le;ji55_u)HDTm-5E!xtmAwhWvxep!w33L!<Z(MY4AXck=bJaPI3@7IW~c"
    "=59vTBo5Jqn(Q}II3yKw&^gsE`7`>+nX`My8IL!Pf__p{BnsKm!<zMhtca0Nb(BZX8bhx5zO?gvv|f`+Zi--f+;v|K`prsll"
    "<(CJ|0xGK3~6CtNZ-wJ$C=&pP8se;7FxK4?p^&mEUXXfuyA#UJrx}mUheo(gX5Zo>yXGTtf755G5^dJZ{0L)QRw<7iCuOHrR"
    "KmuZRoiL8pfUDXvkc{7v#l41An)dkJ0+m7iu_VtA??)dO9`vYxz9<m}^&%p*aR?R)%@Z81RNr`9&--g>AT85JhO&dhiJ{B>v"
    "p63(=Ul4=*^BePO;`tGB}LNXm~l-I4w<c4mv(xg@)R{v59L@bJqK^52K}<#P1hQ(nH#=5y5RpEBLsX54$;KsE7V7>W~sKa-v"
    "BEunbKqzE{nJ4@#zR7F2@l<{WFT0D#4@I#Ki4E6OtvHPVY^dN;c^D^4%jaPG+z_4*A=vL=)(`D<D(6iNw*>BfIVB8+Sk$~O9"
    "w>*aoy2GxSqjQ^HT!jMi=Cfbkw;uzF&2>~6?y8?kN0IumpR+-#@~N_ZahOMX<5jARuX<&47KONaI*$!#2tnp5=)Qje@H;&;n"
    "Qsu!9Ip=NR@QCiUVLR|Evu6e?mpvA(2R4Z0y|UiuL8=pyP5`yBBi=W3U!5~1ZmkAT`QvZIXa&0pNTAT2_9%3+!)L>ZEtytYa"
    "G^UxkJ3n6t88pv(~inj@22Aj&LzCOL+o&A+y1*u6|6!F`B)6n9Z4Q)UrL<{(od);r#"
)


@dataclass(frozen=True)
class Glyph:
    """``advance`` to the next; ``box`` (left, top, right, bottom) is the place that it takes, ``rows`` of
    brightness begin at ``left`` and ``top``. All in pixels, from the left end of the line's top.
    """

    advance: int
    box: tuple[int, int, int, int]
    left: int
    top: int
    rows: tuple[bytes, ...]


@cache
def glyphs() -> dict[str, Glyph]:
    data = zlib.decompress(b85decode("".join(_DATA)))
    found = {}
    at = 0
    for character in CHARACTERS:
        advance, box_left, box_top, box_right, box_bottom, left, top, width, height = data[at : at + 9]
        at += 9
        rows = tuple(data[at + row * width : at + (row + 1) * width] for row in range(height))
        at += width * height
        box = (box_left - _SHIFT, box_top, box_right - _SHIFT, box_bottom)
        found[character] = Glyph(advance, box, left - _SHIFT, top, rows)
    return found
