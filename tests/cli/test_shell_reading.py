"""What the fence around an agent's shell sees in the text of a command."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.cli.shell_reading import why_refused

HARMLESS = [
    "ls -la",
    "git status",
    "git --no-pager log -3",
    "git diff -- train.py",
    "git branch --show-current",
    'autoresearch try -m "a > b; git push" --tag t1 --json',
    "autoresearch history --json | head -20",
    "FOO=1 timeout 600 autoresearch try -m 'x' 2>/dev/null",
    "uv run autoresearch status",
    "python -m autoresearch status",
    "python train.py 2>&1 | tail -5",
    "grep '>' train.py",
    "git show autoresearch/t1:train.py > train.py",
    "git checkout -- train.py",
    "git restore train.py",
    "sed -i s/a/b/ train.py",
    "sed -i.bak -e s/a/b/ -e s/b/c/ train.py",
    "sed -n 1,5p prepare.py",
    "cp train.py train.py",
    "cat > train.py <<'EOF'\nx = \"it's $(git push) > prepare.py\"\nEOF",
    "for i in 1 2; do autoresearch show $i; done",
    'echo "$(git log -1)"',
    "awk '{print $1}' results.tsv",
    "tail -n 5 run.log && echo ok # > prepare.py",
    "test -f x && [ 1 -gt 0 ]",
    "find . -name '*.py'",
    "autoresearch status &> /dev/null",
]

REFUSED = [
    ("git push", "git push"),
    ("git  -C . push origin main", "git push"),
    ("env X=1 git push", "git push"),
    ("timeout -s KILL 5 git push", "git push"),
    ("/usr/bin/git push", "git push"),
    ("g\\it 'pu'\"sh\"", "git push"),
    ("if true; then git push; fi", "git push"),
    ("(git push)", "git push"),
    ("{ git push; }", "git push"),
    ("ls\ngit push", "git push"),
    ("ls & git push", "git push"),
    ('echo "$(git push)"', "git push"),
    ("echo `git push`", "git push"),
    ("cat <(git push)", "git push"),
    ("cat <<EOF\n$(git push)\nEOF", "git push"),
    ("xargs git push < names", "git push"),
    ("git -c alias.x=!sh x", "git -c"),
    ("git diff --output=prepare.py", "--output"),
    ("git reset --hard", "git reset"),
    ("git switch main", "git switch"),
    ("git checkout main", "git checkout"),
    ("git checkout -- prepare.py", "git checkout"),
    ("git commit -am x", "autoresearch try"),
    ("echo x > prepare.py", "prepare.py"),
    ("echo x>>prepare.py", "prepare.py"),
    ("ls 2> log.txt", "log.txt"),
    ("ls &> all.txt", "all.txt"),
    ("exec 3> prepare.py", "prepare.py"),
    ("echo x > $HOME/.bashrc", "bashrc"),
    ("echo x >| *.py", "*.py"),
    ("cd src && echo x > train.py", "train.py"),
    ("cd - ; echo x > train.py", "train.py"),
    ("echo x | tee -a prepare.py", "tee"),
    ("cp train.py prepare.py", "prepare.py"),
    ("cp -t src train.py", "cp -t"),
    ("mv train.py old.py", "old.py"),
    ("rm -rf .", "rm"),
    ("ls | xargs rm", "rm"),
    ("find . -delete", "-delete"),
    ("sed -i.bak -e s/a/b/ prepare.py", "prepare.py"),
    ("dd of=prepare.py", "dd"),
    ("autoresearch history --chart prepare.py", "prepare.py"),
    ("python -c '1'", "command line"),
    ("python3 -Ic '1'", "command line"),
    ("python - < x", "command line"),
    ("python <<EOF\n1\nEOF", "command line"),
    ("bash -c ls", "command line"),
    ("cat x | sh", "command line"),
    ("node -e 1", "command line"),
    ("perl -pi -e s/a/b/ train.py", "command line"),
    ("python -m pip install x", "-m pip"),
    ("pip install x", "installed"),
    ("uv pip install x", "installed"),
    ("curl http://x | cat", "network"),
    ("sudo ls", "sudo"),
    ("eval ls", "eval"),
    ("$(echo git) push", "name"),
    ("awk '{print > \"prepare.py\"}' x", "awk"),
    ('echo "unclosed', "cannot be read"),
    ("echo $(ls", "cannot be read"),
    ("cat <<EOF\nx", "cannot be read"),
]


def may_write(path: str) -> bool:
    return path in ("train.py", "./train.py", "/lab/train.py")


@pytest.mark.parametrize("command", HARMLESS)
def test_a_harmless_command_is_let_through(command):
    assert why_refused(command, may_write) == ""


@pytest.mark.parametrize(("command", "said"), REFUSED, ids=[command for command, _ in REFUSED])
def test_a_command_that_pushes_writes_outside_or_hides_code_is_refused_with_the_reason(command, said):
    assert said in why_refused(command, may_write)


@given(st.text(alphabet="abg it>|;&<$()`'\"\\\n #-EOF{}", max_size=60))
def test_any_text_gets_an_answer(command):
    assert isinstance(why_refused(command, may_write), str)


@given(st.sampled_from(HARMLESS), st.sampled_from([";", "\n", "&&", "||", "|", "&"]))
def test_what_is_harmless_does_not_cover_a_push_after_it(command, operator):
    assert why_refused(f"{command}\n true {operator} git push", may_write)
