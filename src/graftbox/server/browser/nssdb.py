"""Makes a database of trusted certificates by NSS itself: a program of its own, run as the browser's user.

Chromium takes the authorities of ``$HOME/.pki/nssdb`` beside its own. The only argument is the folder;
standard input holds the certificates in PEM. Nothing of graftbox is imported here.
"""

import base64
import ctypes
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

_TRUSTED_FOR_TLS = 0x08 | 0x10  # CERTDB_VALID_CA | CERTDB_TRUSTED_CA (certdb.h)


class _Trust(ctypes.Structure):
    _fields_ = (("tls", ctypes.c_uint), ("mail", ctypes.c_uint), ("code", ctypes.c_uint))


class _Item(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("data", ctypes.c_char_p), ("length", ctypes.c_uint))


def fill(folder: bytes, certificates: list[bytes]) -> None:
    """``certificates`` in DER; raises `OSError` where NSS is missing or fails."""
    nss = ctypes.CDLL("libnss3.so")
    pointers = ("PK11_GetInternalKeySlot", "CERT_NewTempCertificate", "CERT_GetDefaultCertDB")
    for name in pointers:
        getattr(nss, name).restype = ctypes.c_void_p
    if nss.NSS_Initialize(b"sql:" + folder, b"", b"", b"secmod.db", 0):
        raise OSError("NSS could not make its database.")
    slot = ctypes.c_void_p(nss.PK11_GetInternalKeySlot())
    if nss.PK11_NeedUserInit(slot) and nss.PK11_InitPin(slot, None, b""):
        raise OSError("NSS could not initialise its database.")
    store = ctypes.c_void_p(nss.CERT_GetDefaultCertDB())
    trust = _Trust(_TRUSTED_FOR_TLS, 0, 0)
    for number, der in enumerate(certificates):
        item = _Item(0, der, len(der))
        certificate = ctypes.c_void_p(nss.CERT_NewTempCertificate(store, ctypes.byref(item), None, 0, 1))
        if certificate:
            nss.PK11_ImportCert(slot, certificate, ctypes.c_ulong(0), b"image %d" % number, 0)
            nss.CERT_ChangeCertTrust(store, certificate, ctypes.byref(trust))
            nss.CERT_DestroyCertificate(certificate)
    nss.PK11_FreeSlot(slot)
    nss.NSS_Shutdown()


def main(folder: str, pem: bytes) -> None:
    blocks = re.findall(b"-----BEGIN CERTIFICATE-----([^-]*)-----END", pem)
    # NSS waits for the disk after each certificate, so it works in memory where it can.
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else folder
    with tempfile.TemporaryDirectory(dir=place) as draft:
        fill(os.fsencode(draft), [base64.b64decode(block) for block in blocks])
        for path in Path(draft).iterdir():
            shutil.copyfile(path, Path(folder, path.name))


if __name__ == "__main__":
    main(sys.argv[1], sys.stdin.buffer.read())
