"""Which text is one command and which is several."""

from __future__ import annotations

import pytest

from graftbox.server.commands import split_commands

ONE = [
    "echo a; echo b",
    "for i in 1 2; do\n  echo $i\ndone",
    "if true\nthen echo a\nelse echo b\nfi",
    "while read x\ndo echo $x\ndone < file",
    "case $x in\n a) echo a;;\n b|c) echo b\n ;;\nesac",
    "cat <<EOF\na\nb\nEOF",
    "cat <<'EOF' > f && echo x\nit's (odd\nEOF",
    "cat <<-E\n\tx\n\tE",
    "echo a \\\n  b",
    "echo a &&\necho b",
    "echo a |\n  cat",
    "echo 'a\nb'",
    'echo "a\nb $(echo "x\ny") `z`"',
    "echo $(\n  echo a\n  echo b\n)",
    "f() {\n  echo a\n}",
    "f()\n{\n  echo a\n}",
    "function f {\n echo a\n}",
    "(\n echo a\n echo b\n)",
    "{ echo a\necho b\n}",
    "a=(1\n2\n3)",
    "echo ${x:-a\nb}",
    "for ((i=0; i<3; i++)); do\necho $i\ndone",
    "[[ a == b ||\n c == d ]]",
    "echo $'it\\'s\nx'",
    "# a comment\necho a",
    "echo a # comment\n# another",
    "\n\necho a\n\n",
    "echo a 2>&1 >f\n",
    "diff <(echo a\necho b) f",
    "python3 - <<EOF\nprint('a')\nEOF\n",
    "echo 'never closed\necho b",
    "if true; then\necho a",
    "echo done\\\nfi",
    "select x in a b\ndo break\ndone",
    "until false\ndo break\ndone",
    "(( x = 1 +\n 2 ))",
    "echo ${#a} $# ${a//(/x}\n",
]
SEVERAL = [
    ("echo a\necho b", ["echo a", "echo b"]),
    ("echo a\n\n# note\necho b # c\n", ["echo a", "echo b # c"]),
    ("cat <<EOF\nx\nEOF\necho b", ["cat <<EOF\nx\nEOF", "echo b"]),
    ("for i in 1\ndo echo\ndone\npwd", ["for i in 1\ndo echo\ndone", "pwd"]),
    ("f() { echo; }\nf", ["f() { echo; }", "f"]),
    ("a=1\nb=$(echo 1)\necho $a", ["a=1", "b=$(echo 1)", "echo $a"]),
    ("echo 'if'\necho done", ["echo 'if'", "echo done"]),
    ("sleep 1 &\necho b", ["sleep 1 &", "echo b"]),
    ("[[ -n $x ]] && echo y\nls", ["[[ -n $x ]] && echo y", "ls"]),
]


@pytest.mark.parametrize("text", ONE)
def test_lines_that_belong_together_are_one_command(text: str) -> None:
    assert len(split_commands(text)) == 1


@pytest.mark.parametrize(("text", "commands"), SEVERAL)
def test_separate_lines_are_separate_commands(text: str, commands: list[str]) -> None:
    assert split_commands(text) == commands
