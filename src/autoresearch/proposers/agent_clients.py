"""Coding agents by name: how each is started without a person, what it may do, and what it says when it ends.

The command lines were tried with Claude Code 2.1.197, Codex 0.169.0, Gemini CLI 0.61.0 and OpenCode 1.18.33, each against a
scripted model (tests/real).
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoresearch.vocabulary import UsageError

IDEA_FILE = "IDEA.txt"
TASK_FILE = "TASK.md"


@dataclass(frozen=True)
class Errand:
    """One start of an agent. folder: its working directory. files: those it may edit, the main one first. turns: most turns, where the
    agent counts them. usd_left: most money, where it counts that; None is no limit."""

    folder: Path
    files: tuple[str, ...]
    prompt: str
    turns: int
    usd_left: float | None = None


@dataclass(frozen=True)
class Account:
    """What an agent said of its own run. Token counts are those of all its calls; None where it did not say."""

    message: str = ""  # its last words
    model: str = ""
    input_tokens: int | None = None  # cached ones included
    output_tokens: int | None = None  # reasoning included
    cached_tokens: int = 0
    usd: float | None = None
    turns: int | None = None
    error: str = ""  # what went wrong, in its words

    @property
    def tokens(self) -> int | None:
        """Input and output together."""
        if self.input_tokens is None or self.output_tokens is None:
            return None
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True)
class Client:
    """How to run one agent.

    variables: beginnings of the names of variables that it is given, its keys among them. with_variable: more of them when
    a variable is set (another company's account). settings: files to lay into its folder, text by relative path, their
    names beginning with a dot. own: its places in the home. places_by_variable: a variable that names such a place.
    """

    name: str
    program: str
    install: str
    command: Callable[[Errand], list[str]]
    account: Callable[[str], Account]
    variables: tuple[str, ...] = ()
    with_variable: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: Callable[[Errand], Mapping[str, str]] = lambda errand: {}
    environment: Callable[[Errand], Mapping[str, str]] = lambda errand: {}
    own: tuple[str, ...] = ()
    places_by_variable: tuple[str, ...] = ()
    set_by_user: Mapping[str, str] = field(default_factory=dict)

    def found(self, path_variable: str) -> str:
        """Absolute path of its program.

        Raises:
            UsageError: it is not installed.
        """
        place = shutil.which(self.program, path=path_variable)
        if place is None:
            raise UsageError(
                f"the coding agent {self.name} needs {self.program!r}, which is not on PATH", hint=self.install
            )
        return str(Path(place).absolute())


# -- Claude Code ----------------------------------------------------------------------------------------------------------

_CLAUDE_TOOLS = ("Read", "Edit", "Write", "Glob", "Grep")


def claude_settings(files: Sequence[str]) -> str:
    """Permissions of Claude Code: read its folder, edit these files, write down the idea; whatever else is refused."""
    allow = ["Read(./**)", "Glob", "Grep"]
    allow += [f"{tool}(./{name})" for name in (*files, IDEA_FILE) for tool in ("Edit", "Write")]
    deny = ["Bash", "Bash(git push*)", "WebFetch", "WebSearch", "NotebookEdit", "Task", "Agent", "Skill"]
    permissions = {"defaultMode": "dontAsk", "disableBypassPermissionsMode": "disable", "allow": allow, "deny": deny}
    return json.dumps(
        {"permissions": permissions, "disableAllHooks": True, "enableAllProjectMcpServers": False}, indent=1
    )


def _claude_command(errand: Errand) -> list[str]:
    """No user settings, hooks, plugins, skills or MCP servers; five tools; what is not allowed is refused unasked."""
    words = ["--print", "--output-format", "json", "--max-turns", str(errand.turns)]
    words += ["--settings", str(errand.folder / ".agent" / "settings.json"), "--setting-sources", ""]
    words += ["--permission-mode", "dontAsk", "--tools", ",".join(_CLAUDE_TOOLS), "--strict-mcp-config"]
    words += ["--disable-slash-commands", "--no-chrome", "--no-session-persistence"]
    if errand.usd_left is not None:
        words += ["--max-budget-usd", f"{errand.usd_left:.4f}"]
    return words


def _claude_account(output: str) -> Account:
    found: dict[str, Any] = {}
    for value in _json_lines(output):
        if value.get("type") == "result":
            found = value
    if not found:
        return Account()
    usage = _table(found.get("usage"))
    cached = _count(usage.get("cache_read_input_tokens"))
    written = _count(usage.get("cache_creation_input_tokens"))
    models = _table(found.get("modelUsage"))
    errors = found.get("errors") or ([found.get("result") or found.get("subtype")] if found.get("is_error") else [])
    return Account(
        message=str(found.get("result") or ""),
        model=next(iter(models), "").partition("[")[0],
        input_tokens=_count(usage.get("input_tokens")) + cached + written,
        output_tokens=_count(usage.get("output_tokens")),
        cached_tokens=cached,
        usd=_money(found.get("total_cost_usd")),
        turns=_count(found.get("num_turns")) or None,
        error="; ".join(map(str, errors)) if isinstance(errors, list) else str(errors),
    )


# -- Codex ----------------------------------------------------------------------------------------------------------------


def _codex_command(errand: Errand) -> list[str]:
    """Its own sandbox around every command it runs: the folder is writable, the network is off. It counts no turns."""
    words = ["exec", "--json", "--sandbox", "workspace-write", "--skip-git-repo-check", "--ephemeral"]
    words += ["--ignore-user-config", "--ignore-rules", "--color", "never", "--disable", "multi_agent"]
    for value in (
        'approval_policy="never"',
        'web_search="disabled"',
        "sandbox_workspace_write.network_access=false",
        "sandbox_workspace_write.exclude_slash_tmp=true",
        'shell_environment_policy.inherit="core"',
    ):
        words += ["-c", value]
    return words


def _codex_account(output: str) -> Account:
    message = error = ""
    counts = {"input_tokens": 0, "cached_input_tokens": 0, "output_tokens": 0}
    num_turns = 0
    for value in _json_lines(output):
        item = _table(value.get("item"))
        if value.get("type") == "item.completed" and item.get("type") == "agent_message":
            message = str(item.get("text") or "")
        elif value.get("type") == "turn.completed" and isinstance(value.get("usage"), dict):
            num_turns += 1
            counts = {name: total + _count(value["usage"].get(name)) for name, total in counts.items()}
        elif value.get("type") in ("error", "turn.failed"):
            failed = _table(value.get("error")) or value
            error = str(failed.get("message") or "")
    known = num_turns > 0
    return Account(
        message=message,
        input_tokens=counts["input_tokens"] if known else None,
        output_tokens=counts["output_tokens"] if known else None,
        cached_tokens=counts["cached_input_tokens"],
        error=error,
    )


# -- Gemini CLI -----------------------------------------------------------------------------------------------------------

_GEMINI_READING = ("read_file", "glob", "grep_search", "search_file_content", "list_directory")
_GEMINI_WRITING = ("replace", "write_file")


def _gemini_settings(errand: Errand) -> Mapping[str, str]:
    """Settings of the folder, which come before the user's, and rules for which file may be written."""
    settings = {
        "tools": {"core": [*_GEMINI_READING, *_GEMINI_WRITING]},
        "model": {"maxSessionTurns": errand.turns},
        "mcp": {"allowed": []},
        "hooksConfig": {"enabled": False},
        "telemetry": {"enabled": False},
        "privacy": {"usageStatisticsEnabled": False},
        "general": {"enableAutoUpdate": False},
    }
    # Plain classes instead of escapes: it refuses patterns that it takes for slow ones. A quotation mark inside the
    # written text is escaped in the JSON that is matched, so this is the end of the path.
    names = "|".join(re.escape(name).replace(r"\.", "[.]") for name in (*errand.files, IDEA_FILE))
    rules = [
        'toolName = "*"\ndecision = "deny"\npriority = 800',  # `core` alone leaves web_fetch callable (0.61.0)
        f'toolName = {json.dumps(_GEMINI_READING)}\ndecision = "allow"\npriority = 850',
        f'toolName = {json.dumps(_GEMINI_WRITING)}\nargsPattern = \'[/"]({names})"\'\ndecision = "allow"\npriority = 850',
    ]
    policy = "\n".join(f"[[rule]]\n{rule}\n" for rule in rules)
    return {".gemini/settings.json": json.dumps(settings, indent=1), ".agent/scope.toml": policy}


def _gemini_command(errand: Errand) -> list[str]:
    words = ["--approval-mode", "auto_edit", "--skip-trust", "--extensions", "none", "--output-format", "json"]
    words += ["--allowed-mcp-server-names", "none", "--admin-policy", str(errand.folder / ".agent" / "scope.toml")]
    return words


def _gemini_account(output: str) -> Account:
    found: dict[str, Any] = {}
    for value in _json_blocks(output):
        if "response" in value or "error" in value or "stats" in value:
            found = value
    if not found:
        return Account()
    stats = _table(found.get("stats"))
    models = _table(stats.get("models"))
    sent = received = cached = 0
    for model in models.values():
        tokens = _table(_table(model).get("tokens"))
        sent += _count(tokens.get("prompt")) + _count(tokens.get("tool"))
        received += _count(tokens.get("candidates")) + _count(tokens.get("thoughts"))
        cached += _count(tokens.get("cached"))
    error = _table(found.get("error"))
    return Account(
        message=str(found.get("response") or ""),
        model=next(iter(models), ""),
        input_tokens=sent if models else None,
        output_tokens=received if models else None,
        cached_tokens=cached,
        error=str(error.get("message") or ""),
    )


# -- OpenCode -------------------------------------------------------------------------------------------------------------


def _opencode_environment(errand: Errand) -> Mapping[str, str]:
    """Its configuration, which comes after the user's: rules by pattern, of which the last that matches decides."""
    # outside of a git repository it matches paths from the root, without the first slash (measured with 1.18.33)
    inside = errand.folder.as_posix().lstrip("/")
    names = (*errand.files, IDEA_FILE)
    edit = {"*": "deny"} | {place: "allow" for name in names for place in (name, f"{inside}/{name}")}
    permission = {"*": "deny", "read": "allow", "glob": "allow", "grep": "allow", "list": "allow", "edit": edit}
    config = {
        "permission": {**permission, "external_directory": "deny"},
        "agent": {"build": {"steps": errand.turns}},
        "share": "disabled",
        "autoupdate": False,
        "snapshot": False,
    }
    return {
        "OPENCODE_CONFIG_CONTENT": json.dumps(config),
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    }


def _opencode_account(output: str) -> Account:
    message = error = ""
    sent = received = cached = num_steps = 0
    usd = 0.0
    for value in _json_lines(output):
        part = _table(value.get("part"))
        if value.get("type") == "text":
            message = str(part.get("text") or "")
        elif value.get("type") == "step_finish" and isinstance(part.get("tokens"), dict):
            tokens = part["tokens"]
            cache = _table(tokens.get("cache"))
            num_steps += 1
            cached += _count(cache.get("read"))
            sent += _count(tokens.get("input")) + _count(cache.get("read")) + _count(cache.get("write"))
            received += _count(tokens.get("output")) + _count(tokens.get("reasoning"))
            usd += _money(part.get("cost")) or 0.0
        elif value.get("type") == "error":
            said = value.get("error")
            error = str(said.get("data", said) if isinstance(said, dict) else said)
    return Account(
        message=message,
        input_tokens=sent if num_steps else None,
        output_tokens=received if num_steps else None,
        cached_tokens=cached,
        usd=usd if num_steps and usd > 0 else None,  # it says 0 for models whose price it does not know
        turns=num_steps or None,
        error=error,
    )


# -- any command ----------------------------------------------------------------------------------------------------------

_PASSED_ON = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_FIELD = re.compile(r"\{(\w+)\}")
_FIELDS = ("prompt_file", "folder", "file", "prompt", "turns")


def template_client(template: str) -> Client:
    """A client from a command line: `my-agent --prompt-file {prompt_file} --dir {folder}`.

    Split into words as a shell would, and never given to one. Fields: prompt_file, folder, file (the main file to edit), prompt (a
    sentence that names the prompt file) and turns. `NAME=$NAME` in front passes a variable on, `NAME=text` sets one.

    Raises:
        UsageError: it has no command, an unknown field, or an open quotation mark.
    """
    example = "autoresearch research TAG --proposer 'cli:my-agent --prompt-file {prompt_file}'"
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise UsageError(f"the agent's command line {template!r} cannot be read: {error}", hint=example) from error
    passed: list[str] = []
    fixed: dict[str, str] = {}
    while words and (found := _PASSED_ON.fullmatch(words[0])):
        name, value = found.groups()
        if value == f"${name}":
            passed.append(name)
        else:
            fixed[name] = value
        words = words[1:]
    if not words:
        raise UsageError(f"the agent's command line {template!r} names no program", hint=example)
    unknown = [name for word in words for name in _FIELD.findall(word) if name not in _FIELDS]
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in _FIELDS)
        raise UsageError(f"unknown field {{{unknown[0]}}} in the agent's command line; known: {known}", hint=example)
    program = Path(words[0]).name
    return Client(
        name=program,
        program=words[0],
        install=f"put {program} on PATH, or write its whole path",
        command=lambda errand: [_filled(word, errand) for word in words[1:]],
        account=lambda output: Account(),
        variables=tuple(f"{name}=" for name in passed),
        own=tuple(f"{place}{program}" for place in (".", ".config/", ".cache/", ".local/share/", ".local/state/")),
        set_by_user=fixed,
    )


def _filled(word: str, errand: Errand) -> str:
    values = {
        "prompt_file": str(errand.folder / TASK_FILE),
        "folder": str(errand.folder),
        "file": str(errand.folder / errand.files[0]),
        "prompt": errand.prompt,
        "turns": str(errand.turns),
    }
    return _FIELD.sub(lambda field_: values[field_[1]], word)


# -- by name --------------------------------------------------------------------------------------------------------------


def _with_prompt(
    client: Callable[[Errand], list[str]], extra: Sequence[str], before: Sequence[str] = ()
) -> Callable[[Errand], list[str]]:
    """The client's words, what the user added, and the prompt as the last word."""
    return lambda errand: [*client(errand), *extra, *before, errand.prompt]


_CLIENTS: Mapping[str, Client] = {
    "claude": Client(
        name="claude",
        program="claude",
        install="npm install -g @anthropic-ai/claude-code",
        command=_claude_command,
        account=_claude_account,
        variables=("ANTHROPIC_", "CLAUDE_", "DISABLE_"),
        with_variable={
            "CLAUDE_CODE_USE_BEDROCK": ("AWS_",),
            "CLAUDE_CODE_USE_VERTEX": ("GOOGLE_", "VERTEX_", "CLOUD_ML_"),
        },
        settings=lambda errand: {".agent/settings.json": claude_settings(errand.files)},
        environment=lambda errand: {"DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"},
        own=(".claude", ".claude.json"),
        places_by_variable=("CLAUDE_CONFIG_DIR",),
    ),
    "codex": Client(
        name="codex",
        program="codex",
        install="npm install -g @openai/codex",
        command=_codex_command,
        account=_codex_account,
        variables=("OPENAI_", "CODEX_"),
        own=(".codex",),
        places_by_variable=("CODEX_HOME",),
    ),
    "gemini": Client(
        name="gemini",
        program="gemini",
        install="npm install -g @google/gemini-cli",
        command=_gemini_command,
        account=_gemini_account,
        variables=("GEMINI_", "GOOGLE_"),
        settings=_gemini_settings,
        own=(".gemini",),
        places_by_variable=("GEMINI_CLI_HOME", "GOOGLE_APPLICATION_CREDENTIALS"),
    ),
    "opencode": Client(
        name="opencode",
        program="opencode",
        install="npm install -g opencode-ai",
        command=lambda errand: ["run", "--pure", "--format", "json"],
        account=_opencode_account,
        variables=("OPENCODE_", "ANTHROPIC_", "OPENAI_", "GEMINI_", "GOOGLE_", "OPENROUTER_", "GROQ_"),
        environment=_opencode_environment,
        own=(".config/opencode", ".local/share/opencode", ".local/state/opencode", ".cache/opencode"),
    ),
}


def agent_names() -> tuple[str, ...]:
    """Agents that are known by name; any other command line is a template."""
    return tuple(_CLIENTS)


def client_of(text: str) -> Client:
    """The client that follows `cli:`: a known name, with words of the user's own after it (`claude --model opus`), or a template.

    Raises:
        UsageError: neither.
    """
    template = template_client(text)  # checks the quoting of both kinds
    words = shlex.split(text)
    known = _CLIENTS.get(words[0])
    if known is None:
        return template
    extra = words[1:]
    last = ["--prompt"] if known.name == "gemini" else []
    return replace(known, command=_with_prompt(known.command, extra, last))


# -- reading ---------------------------------------------------------------------------------------------------------------


def _json_lines(output: str) -> Iterator[dict[str, Any]]:
    """Every line that is a JSON object; other lines (warnings, a line whose beginning was cut off) are passed over."""
    for line in output.split("\n"):
        if line.startswith("{"):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                yield value


def _json_blocks(output: str) -> Iterator[dict[str, Any]]:
    """Every JSON object that begins at a line's beginning, over several lines too."""
    decoder = json.JSONDecoder()
    position = 0
    for _ in range(1000):
        found = re.compile(r"^\{", re.MULTILINE).search(output, position)
        if found is None:
            return
        try:
            value, position = decoder.raw_decode(output, found.start())
        except (ValueError, RecursionError):
            position = found.end()
            continue
        if isinstance(value, dict):
            yield value


def _table(value: Any) -> dict[str, Any]:
    """What should be a JSON object; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else 0


def _money(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
        return None
    return float(value)
