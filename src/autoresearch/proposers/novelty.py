"""Is this edit a new idea? Programs are compared by syntax tree, so comments, docstrings and layout do not count."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from functools import lru_cache

# Calls whose arguments choose a stream of random numbers and nothing else (torch, numpy, mlx, jax, random).
_SEEDING_CALLS = frozenset(
    {"seed", "manual_seed", "manual_seed_all", "set_seed", "seed_everything", "default_rng", "RandomState", "PRNGKey"}
)


def parse_program(source: str) -> ast.Module:
    """The syntax tree of `source`.

    Raises:
        SyntaxError: it does not parse. Null bytes and nesting too deep for the parser are reported the same way.
    """
    try:
        return ast.parse(source)
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(str(error) or type(error).__name__) from error


def normalised(source: str) -> str:
    """The program without positions, comments, docstrings and layout: equal texts mean the same program.

    Raises:
        SyntaxError: it does not parse.
    """
    tree = _without_docstrings(parse_program(source))
    try:
        return ast.dump(tree)
    except RecursionError as error:
        raise SyntaxError("nested too deeply to compare") from error


@lru_cache(maxsize=4096)  # 1000 lines take 20 ms; a session compares each candidate with all earlier ones
def digest_of(source: str) -> str:
    """SHA-256 of the normalised program, or of the text itself where it does not parse."""
    try:
        body = "program:" + normalised(source)
    except SyntaxError:
        body = "text:" + source
    return hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()


def same_program(a: str, b: str) -> bool:
    """Whether two texts are one program. Texts that do not parse are the same only when they are equal."""
    return digest_of(a) == digest_of(b)


def num_code_lines(files: Mapping[str, str]) -> int:
    """Lines of these files with every statement in one form: a comment, a blank or a line broken in two is none more."""
    return sum(_num_statement_lines(text) for text in files.values())


@lru_cache(maxsize=256)
def _num_statement_lines(source: str) -> int:
    try:
        text = ast.unparse(_without_docstrings(parse_program(source)))
    except (SyntaxError, RecursionError):
        text = source
    return sum(1 for line in text.splitlines() if line.strip())


def digest_of_files(files: Mapping[str, str]) -> str:
    """SHA-256 over the names of a program's files and the digest of each."""
    parts = "".join(f"{name}\0{digest_of(files[name])}\n" for name in sorted(files))
    return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()


def same_files(a: Mapping[str, str], b: Mapping[str, str]) -> bool:
    """Whether two sets of files, text by name, are one program: the same names, and each pair of texts one program."""
    return a.keys() == b.keys() and all(same_program(a[name], b[name]) for name in a)


def is_seed_only_edit(before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    """Whether an edit of several files changes random seeds and nothing else. No file may be added or removed."""
    if before.keys() != after.keys():
        return False
    changed = [name for name in before if not same_program(before[name], after[name])]
    return bool(changed) and all(is_seed_only(before[name], after[name]) for name in changed)


def is_seed_only(before: str, after: str) -> bool:
    """Whether the edit changes random seeds and nothing else: luck, not an improvement.

    Covers values of names with the word SEED, expressions that combine such a name, arguments of seeding calls
    (`torch.manual_seed`), and seeding statements added or removed. An edit that changes nothing is not seed-only, and
    neither is one whose text does not parse.
    """
    try:
        if normalised(before) == normalised(after):
            return False
        masked = [ast.dump(_MaskSeeds().visit(_without_docstrings(parse_program(text)))) for text in (before, after)]
    except (SyntaxError, RecursionError):
        return False
    return masked[0] == masked[1]


def is_seed_name(name: str) -> bool:
    """Whether a name speaks of a random seed: SEED, TRAIN_SEED, rng_seeds; not SEEDLING."""
    return not {"SEED", "SEEDS"}.isdisjoint(name.upper().split("_"))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            node.kind = None  # u"x" is "x"
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            rest = node.body[1:]
            node.body = rest if rest or isinstance(node, ast.Module) else [ast.Pass()]
    return tree


def _seed_mark() -> ast.Constant:
    return ast.Constant(value="<seed>")


def _is_seed_target(node: ast.expr) -> bool:
    if isinstance(node, ast.Name):
        return is_seed_name(node.id)
    return isinstance(node, ast.Attribute) and is_seed_name(node.attr)


def _is_seeding_call(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    name = (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )
    return name in _SEEDING_CALLS


class _MaskSeeds(ast.NodeTransformer):
    """Replaces whatever only chooses a seed by one mark, and drops statements that only set one."""

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        return None if all(_is_seed_target(target) for target in node.targets) else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        return None if _is_seed_target(node.target) else self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST | None:
        return None if _is_seed_target(node.target) else self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if _is_seeding_call(node.value) else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if _is_seeding_call(node):
            node.args, node.keywords = [_seed_mark()], []
        return node

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        self.generic_visit(node)
        if node.arg is not None and is_seed_name(node.arg):
            node.value = _seed_mark()
        return node

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        self.generic_visit(node)
        for index, key in enumerate(node.keys):
            if isinstance(key, ast.Constant) and isinstance(key.value, str) and is_seed_name(key.value):
                node.values[index] = _seed_mark()
        return node

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        self.generic_visit(node)
        positional = [*node.posonlyargs, *node.args]
        for index in range(1, len(node.defaults) + 1):
            if is_seed_name(positional[-index].arg):
                node.defaults[-index] = _seed_mark()
        for index, argument in enumerate(node.kwonlyargs):
            if is_seed_name(argument.arg) and node.kw_defaults[index] is not None:
                node.kw_defaults[index] = _seed_mark()
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        marks = [self._is_mark(side) or isinstance(side, ast.Constant) for side in (node.left, node.right)]
        return _seed_mark() if all(marks) and (self._is_mark(node.left) or self._is_mark(node.right)) else node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return _seed_mark() if isinstance(node.ctx, ast.Load) and is_seed_name(node.id) else node

    @staticmethod
    def _is_mark(node: ast.expr) -> bool:
        return isinstance(node, ast.Constant) and node.value == "<seed>"
