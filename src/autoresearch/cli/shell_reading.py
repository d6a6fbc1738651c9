"""What a shell command would write or run, as far as its text shows it. Pure functions; nothing is executed.

This is a fence for an agent that means well, not a wall. It cannot see what a program writes by itself (`python train.py`),
what a script does, names made at run time, or `sed`'s own `w`. The wall is elsewhere: `try` refuses an edit outside the
scope, and the referee never trusts this checkout for the score.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

MayWrite = Callable[[str], bool]

# Longest first. "\n" ends a command as ";" does.
_OPERATORS = (
    *("&>>", "<<<", "<<-", "&&", "||", ";;", "|&", "&>", ">>", ">|", ">&", "<<", "<&", "<>"),
    *(";", "&", "|", "(", ")", "<", ">", "\n"),
)
_WRITING = frozenset({">", ">>", ">|", "&>", "&>>", "<>", ">&"})
_READING = frozenset({"<", "<<<", "<&"})
_UNKNOWN = "\0"  # stands in a word for what only the running shell knows
_RESERVED = frozenset(
    {"if", "then", "else", "elif", "do", "while", "until", "fi", "done", "esac", "!", "{", "}", "[[", "coproc"}
)
_WRAPPERS = frozenset(
    {"env", "command", "builtin", "exec", "nohup", "time", "timeout", "nice", "ionice", "setsid"}
    | {"stdbuf", "xargs", "caffeinate", "chrt", "taskset"}
)
_HARMLESS_TARGETS = frozenset({"/dev/null", "/dev/stdout", "/dev/stderr", "/dev/tty"})

_READ_ONLY_GIT = frozenset(
    {"status", "diff", "log", "show", "blame", "ls-files", "ls-tree", "cat-file", "rev-parse", "rev-list", "grep"}
    | {"for-each-ref", "describe", "shortlog", "merge-base", "diff-tree", "name-rev", "show-ref", "version", "help"}
)
_HARMLESS_BRANCH_ARGUMENTS = frozenset({"--list", "--show-current", "--all", "-a", "-r", "-v", "-vv"})
_PYTHON = re.compile(r"(python|pypy)[0-9.]*")
_SHELLS = frozenset({"bash", "sh", "zsh", "dash", "ksh", "fish", "pwsh"})
_OTHER_INTERPRETERS = frozenset({"node", "nodejs", "deno", "bun", "perl", "ruby", "php", "lua", "Rscript", "osascript"})
_HARMLESS_MODULES = frozenset({"autoresearch", "py_compile", "ast"})
_NETWORK = frozenset(
    {"curl", "wget", "ssh", "scp", "sftp", "rsync", "ftp", "nc", "ncat", "netcat", "socat", "telnet", "gh", "glab"}
    | {"hf", "huggingface-cli", "aws", "gsutil", "gcloud", "rclone"}
)
_INSTALLERS = frozenset(
    {"pip", "pip3", "pipx", "conda", "mamba", "npm", "npx", "yarn", "pnpm", "brew", "apt", "apt-get"}
)
_WRITES_ALL = frozenset(
    {"tee", "touch", "rm", "rmdir", "unlink", "shred", "truncate", "chmod", "chown", "chgrp", "mkdir", "mv"}
)
_WRITES_LAST = frozenset({"cp", "install", "ln"})
_WRITES_UNSEEN = frozenset(
    {"patch", "tar", "unzip", "dd", "ed", "ex", "vi", "vim", "nvim", "nano", "emacs", "split", "csplit", "make"}
    | {
        "sudo",
        "doas",
        "su",
        "crontab",
        "at",
        "batch",
        "mkfifo",
        "mknod",
        "mount",
        "systemctl",
        "docker",
        "podman",
        "eval",
        "script",
    }
)
_FIND_ACTIONS = frozenset({"-delete", "-exec", "-execdir", "-ok", "-okdir", "-fprint", "-fprintf", "-fls", "-fprint0"})
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")


class Unreadable(Exception):
    """The text is no shell command that this module can take apart."""


@dataclass(frozen=True)
class _Token:
    text: str
    is_operator: bool


@dataclass
class _Command:
    words: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


def why_refused(command: str, may_write: MayWrite) -> str:
    """Why research may not run this command, in words for the agent, or "" when nothing in its text speaks against it.

    may_write: whether a path, relative to where the command starts, is in the scope.
    """
    try:
        return next((why for why in _objections(command, may_write) if why), "")
    except Unreadable as error:
        return f"this command cannot be read ({error}); write it more plainly, one step at a time"


def _objections(command: str, may_write: MayWrite) -> Iterator[str]:
    tokens, nested = _tokens(command)
    for inner in nested:
        yield from _objections(inner, may_write)
    where = ""  # folder that relative paths start from, below the first one; _UNKNOWN when it cannot be told
    for found in _commands(tokens):

        def writable(path: str, where: str = where) -> bool:
            return _may_write(path, where, may_write)

        for target in found.outputs:
            if not writable(target):
                yield f"it writes to {_shown(target)}, and only the files in scope may be written"
        for words in _programs(found.words):
            if words[0] in ("cd", "pushd", "popd"):
                target = words[1] if len(words) > 1 and words[0] != "popd" else _UNKNOWN
                where = _UNKNOWN if target in ("-", _UNKNOWN) else posixpath.join(where, target)
            else:
                yield _why_not_run(words[0].rpartition("/")[2], words[1:], writable)


def _may_write(path: str, where: str, may_write: MayWrite) -> bool:
    if path in _HARMLESS_TARGETS or path.startswith("/dev/fd/"):
        return True
    whole = posixpath.join(where, path)
    if any(char in whole for char in f"{_UNKNOWN}*?[~{{"):
        return False
    return may_write(whole)


def _shown(path: str) -> str:
    return repr(path.replace(_UNKNOWN, "$…"))


def _why_not_run(name: str, arguments: list[str], writable: Callable[[str], bool]) -> str:
    """Objection to one program with its arguments."""
    plain = _operands(arguments)
    if _UNKNOWN in name:
        return "the name of the program it runs is only known when it runs"
    if name == "git":
        return _why_not_git(arguments, writable)
    if name in _NETWORK:
        return f"{name} reaches the network, and research stays on this machine"
    if name in _INSTALLERS or (name == "uv" and arguments[:1] != ["run"]):
        return f"{name} changes what is installed; no new package may be added"
    if _PYTHON.fullmatch(name) or name in _SHELLS or name in _OTHER_INTERPRETERS:
        return _why_not_interpreted(name, arguments)
    if name in _WRITES_UNSEEN:
        return f"what {name} writes or runs cannot be seen from here; use the Edit tool on the files in scope"
    written: list[str] = []
    if name in _WRITES_ALL:
        written = plain[1:] if name in ("chmod", "chown", "chgrp") else plain
    elif name in _WRITES_LAST:
        if any(argument.startswith(("-t", "--target-directory")) for argument in arguments):
            return f"{name} -t writes into a folder; name the file it writes"
        written = plain[-1:]
    elif name in ("sed", "gsed") and any(re.match(r"-[a-zA-Z]*i|--in-place", argument) for argument in arguments):
        scripts = [i + 1 for i, argument in enumerate(arguments) if re.match(r"-[a-zA-Z]*[ef]$", argument)]
        files = _operands([argument for i, argument in enumerate(arguments) if i not in scripts])
        written = files if scripts else files[1:]
    elif name == "find" and (actions := _FIND_ACTIONS.intersection(arguments)):
        return f"find {min(actions)} changes or runs what it finds"
    elif name in ("awk", "gawk", "mawk") and any(re.search(r"system\s*\(|[>|]", argument) for argument in plain):
        return f"{name} with > or | or system() writes or runs something"
    elif name == "sort" and any(argument.startswith(("-o", "--output")) for argument in arguments):
        return "sort -o writes a file; read its output instead"
    elif name == "autoresearch" and "--chart" in arguments:
        written = arguments[arguments.index("--chart") + 1 :][:1]
    bad = [path for path in written if not writable(path)]
    return f"{name} would write {_shown(bad[0])}, and only the files in scope may be written" if bad else ""


def _why_not_git(arguments: list[str], writable: Callable[[str], bool]) -> str:
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        flag = rest.pop(0)
        if flag == "-C":
            rest = rest[1:]
        elif flag not in ("--no-pager", "-P", "--version", "--no-optional-locks", "--literal-pathspecs"):
            return f"git {flag} may change what git runs; call git without it"
    verb, rest = (rest[0], rest[1:]) if rest else ("help", [])
    if verb == "push":
        return "git push: nothing of a research session leaves this machine; the person pushes"
    if verb in _READ_ONLY_GIT:
        opens = [a for a in rest if a.startswith(("--output", "--open-files-in-pager", "-O", "--ext-diff"))]
        return f"git {verb} {opens[0]} writes or runs something" if opens else ""
    if verb == "branch" and set(rest) <= _HARMLESS_BRANCH_ARGUMENTS:
        return ""
    if verb in ("checkout", "restore"):
        paths = rest[rest.index("--") + 1 :] if "--" in rest else _operands(rest) if verb == "restore" else []
        return (
            ""
            if paths and all(map(writable, paths))
            else f"git {verb} is for single files in scope: git {verb} -- FILE"
        )
    if verb in ("add", "commit"):
        return f"git {verb}: `autoresearch try` makes the commit of every experiment"
    return f"git {verb} changes the repository; branches and refs are moved by `autoresearch try` alone"


def _why_not_interpreted(name: str, arguments: list[str]) -> str:
    """Code on the command line or from standard input is refused; a file that is there is not."""
    inline = f"{name}: code on the command line cannot be checked; put the idea into the file in scope"
    for number, argument in enumerate(arguments):
        if argument == "-" or argument.startswith("/dev/fd/") or argument == "/dev/stdin":
            return inline
        if not argument.startswith("-"):
            return ""  # a script
        if _PYTHON.fullmatch(name):
            if argument == "-m":
                module = arguments[number + 1] if number + 1 < len(arguments) else ""
                return "" if module in _HARMLESS_MODULES else f"{name} -m {module or '…'} is not needed for research"
            if re.match(r"-[a-zA-Z]*c", argument):
                return inline
            if argument in ("--version", "-V", "--help", "-h"):
                return ""
        elif name in _SHELLS:
            if re.match(r"-[a-zA-Z]*[cs]", argument):
                return inline
        elif argument not in ("--version", "-v", "--help"):
            return inline
        else:
            return ""
    return inline  # no script: it reads standard input


def _operands(arguments: list[str]) -> list[str]:
    """Arguments that are no options."""
    if "--" in arguments:
        cut = arguments.index("--")
        return [a for a in arguments[:cut] if not a.startswith("-")] + arguments[cut + 1 :]
    return [a for a in arguments if not a.startswith("-") or a == "-"]


def _programs(words: list[str]) -> Iterator[list[str]]:
    """The program that is run with its arguments: without assignments and reserved words.

    Behind `env`, `timeout 10`, `xargs`, `uv run` every later word may be the program, as their options are not known here.
    """
    rest = list(words)
    while rest and (rest[0] in _RESERVED or _ASSIGNMENT.match(rest[0])):
        rest = rest[1:]
    if not rest:
        return
    name = rest[0].rpartition("/")[2]
    if name not in _WRAPPERS and not (name == "uv" and rest[1:2] == ["run"]):
        yield rest
        return
    given = [_UNKNOWN] if name == "xargs" else []  # what arrives on its standard input
    for start in range(1, len(rest)):
        if not rest[start].startswith("-"):
            yield [*rest[start:], *given]


def _commands(tokens: list[_Token]) -> Iterator[_Command]:
    """Simple commands in order, each with its words and the files its redirections write."""
    now = _Command()
    stream = iter(tokens)
    for token in stream:
        if not token.is_operator:
            now.words.append(token.text)
        elif token.text in _WRITING or token.text in _READING:
            target = next(stream, None)
            if target is None or target.is_operator:
                raise Unreadable("a redirection without a file")
            is_descriptor = token.text == ">&" and re.fullmatch(r"[0-9]+|-", target.text)
            if token.text in _WRITING and not is_descriptor:
                now.outputs.append(target.text)
        else:
            yield now
            now = _Command()
    yield now


def _tokens(command: str) -> tuple[list[_Token], list[str]]:
    """Words and operators of a command, and the commands nested in it: `$(…)`, backticks, `<(…)`."""
    return _Reader(command).read()


class _Reader:
    """One pass over the text of a command."""

    def __init__(self, text: str) -> None:
        self.text = text.replace("\\\n", "")
        self.at = 0
        self.tokens: list[_Token] = []
        self.nested: list[str] = []
        self.word: list[str] | None = None
        self.is_quoted = False
        self.awaited: list[tuple[str, bool]] = []  # here-documents: delimiter, and whether its body is expanded
        self.is_delimiter = False

    def read(self) -> tuple[list[_Token], list[str]]:
        while self.at < len(self.text):
            self._step(self.text[self.at])
        self._end_word()
        return self.tokens, self.nested

    def _step(self, char: str) -> None:
        text, at = self.text, self.at
        if char in " \t\r":
            self._end_word()
            self.at += 1
        elif char == "#" and self.word is None:
            end = text.find("\n", at)
            self.at = len(text) if end < 0 else end
        elif char == "\\":
            self._add(text[at + 1 : at + 2], quoted=True)
            self.at += 2
        elif char == "'" or text.startswith("$'", at):
            self._single_quoted(at + (2 if char == "$" else 1), ansi=char == "$")
        elif char == '"':
            self._double_quoted(at + 1)
        elif text.startswith(("$(", "<(", ">("), at):
            self._nest(at + 2)
        elif char == "`":
            end = self._closing("`", at + 1)
            self.nested.append(text[at + 1 : end])
            self._add(_UNKNOWN)
            self.at = end + 1
        elif char == "$" and re.match(r"\$[A-Za-z_0-9{@*#?!]", text[at:]):
            self._add(_UNKNOWN)
            self.at += 1
        else:
            self._operator_or_letter(char)

    def _operator_or_letter(self, char: str) -> None:
        operator = next((op for op in _OPERATORS if self.text.startswith(op, self.at)), None)
        if operator is None:
            self._add(char)
            self.at += 1
            return
        if self.word is not None and not self.is_quoted and operator[0] in "<>" and "".join(self.word).isdigit():
            self.word = None  # the number of a descriptor, as in 2>
        self._end_word()
        self.at += len(operator)
        if operator in ("<<", "<<-"):
            self.is_delimiter = True
            return
        self.tokens.append(_Token(operator, True))
        if operator == "\n":
            self._skip_documents()

    def _skip_documents(self) -> None:
        for delimiter, is_expanded in self.awaited:
            body: list[str] = []
            while True:
                if self.at >= len(self.text):
                    raise Unreadable(f"the here-document {delimiter!r} has no end")
                end = self.text.find("\n", self.at)
                end = len(self.text) if end < 0 else end
                line = self.text[self.at : end]
                self.at = end + 1
                if line.lstrip("\t") == delimiter:
                    break
                body.append(line)
            if is_expanded:
                inner = _Reader('"' + "\n".join(body).replace('"', " ") + '"')
                self.nested += inner.read()[1]
        self.awaited = []

    def _add(self, text: str, *, quoted: bool = False) -> None:
        self.word = [*(self.word or []), text]
        self.is_quoted = self.is_quoted or quoted

    def _end_word(self) -> None:
        if self.word is None:
            return
        text = "".join(self.word)
        if self.is_delimiter:
            self.awaited.append((text, not self.is_quoted))
        else:
            self.tokens.append(_Token(text, False))
        self.word, self.is_quoted, self.is_delimiter = None, False, False

    def _single_quoted(self, start: int, *, ansi: bool) -> None:
        end = self._closing("'", start) if ansi else self.text.find("'", start)
        if end < 0:
            raise Unreadable("a quotation mark is not closed")
        self._add(_UNKNOWN if ansi and "\\" in self.text[start:end] else self.text[start:end], quoted=True)
        self.at = end + 1

    def _double_quoted(self, start: int) -> None:
        self._add("", quoted=True)
        self.at = start
        while True:
            if self.at >= len(self.text):
                raise Unreadable("a quotation mark is not closed")
            char = self.text[self.at]
            if char == '"':
                self.at += 1
                return
            if char == "\\":
                self._add(self.text[self.at + 1 : self.at + 2], quoted=True)
                self.at += 2
            elif char in "`$":
                before = self.at
                self._step(char) if char == "`" or self.text.startswith("$(", self.at) else self._variable()
                assert self.at > before
            else:
                self._add(char, quoted=True)
                self.at += 1

    def _variable(self) -> None:
        is_one = re.match(r"\$[A-Za-z_0-9{@*#?!]", self.text[self.at :])
        self._add(_UNKNOWN if is_one else "$", quoted=True)
        self.at += 1

    def _nest(self, start: int) -> None:
        """Take a command in parentheses out; parentheses inside quotation marks do not count."""
        depth, at = 1, start
        while at < len(self.text):
            char = self.text[at]
            if char == "\\":
                at += 1
            elif char in "'\"":
                at = self._closing(char, at + 1) if char == '"' else self.text.find("'", at + 1)
                if at < 0:
                    raise Unreadable("a quotation mark is not closed")
            elif char in "()":
                depth += 1 if char == "(" else -1
                if depth == 0:
                    self.nested.append(self.text[start:at])
                    self._add("/dev/fd/0" if self.text[start - 2] in "<>" else _UNKNOWN)
                    self.at = at + 1
                    return
            at += 1
        raise Unreadable("a parenthesis is not closed")

    def _closing(self, mark: str, start: int) -> int:
        at = start
        while at < len(self.text):
            if self.text[at] == "\\":
                at += 1
            elif self.text[at] == mark:
                return at
            at += 1
        raise Unreadable("a quotation mark is not closed")
