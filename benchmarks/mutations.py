"""Typical mistakes, as changes of a module's syntax tree (used by mutants.py)."""

import ast
import copy
import importlib.util
import random
from collections import defaultdict
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType
from typing import Any, Final

REDUCTIONS: Final = {
    "mean", "sum", "softmax", "argmax", "norm", "flip", "cumsum", "cat", "stack", "unbind", "chunk", "square", "amax",
}  # fmt: skip
LAYERS: Final = {"linear", "input", "output", "reduce", "expand", "qkv", "label", "network", "layers", "embed", "norm1"}
NOT_IN_THE_CONTRACT: Final = {"metrics", "classify", "check", "learning_rate_scale"}
KEYWORDS: Final = {
    "generator": "global generator", "dtype": "dtype dropped", "device": "device dropped",
    "noise_scale": "noise scale dropped", "until": "end of a step forgotten", "pooled": "width of the pooled vector",
}  # fmt: skip
"""Keyword that may be left out -> the way of the mistake."""
Change = tuple[str, ast.AST]
"""In words, and what the node becomes."""


def changes(node: ast.AST) -> Iterator[Change]:
    """The typical mistakes that can be made at a node of the syntax tree."""
    if isinstance(node, ast.Call):
        yield from _changes_of_call(node)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        if isinstance(node.left, ast.Constant) and node.left.value == 1:
            yield "direction: 1 - t becomes t", node.right
        elif not isinstance(node.right, ast.Constant):
            yield "sign: difference becomes sum", ast.BinOp(node.left, ast.Add(), node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub) and _integer(node.right) == 1:
        yield "off by one: + 1 or - 1 left out", node.left
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for old, new in ((ast.Lt, ast.Gt()), (ast.Gt, ast.Lt()), (ast.LtE, ast.GtE()), (ast.GtE, ast.LtE())):
            if isinstance(node.ops[0], old):
                yield "comparison turned round", ast.Compare(node.left, [new], node.comparators)
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        yield "sum forgotten: += becomes =", ast.Assign([node.target], node.value)
    if isinstance(node, ast.Dict):
        for i, key in enumerate(node.keys):
            if isinstance(key, ast.Constant) and key.value == "component":
                rest = (node.keys[:i] + node.keys[i + 1 :], node.values[:i] + node.values[i + 1 :])
                yield "group without component", ast.Dict(*rest)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        yield "mask inverted", node.operand
    if isinstance(node, ast.withitem) and "no_grad" in ast.unparse(node.context_expr):
        yield "detach: no_grad left out", ast.withitem(ast.parse("torch.enable_grad()", mode="eval").body)
    if isinstance(node, ast.withitem) and "sdpa_kernel" in ast.unparse(node.context_expr):
        nothing = ast.parse("__import__('contextlib').nullcontext()", mode="eval").body
        yield "attention without forward derivative: sdpa_kernel left out", ast.withitem(nothing)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and "denoising_weights" in ast.unparse(node.right):
        yield "denoising weights forgotten", node.left
    if isinstance(node, ast.Raise) and node.exc is not None and "UserError" in ast.unparse(node.exc):
        yield "check left out", ast.Pass()


def _changes_of_call(node: ast.Call) -> Iterator[Change]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    owner = node.func.value if isinstance(node.func, ast.Attribute) else node
    for word, way in KEYWORDS.items():
        if any(keyword.arg == word for keyword in node.keywords):
            rest = [keyword for keyword in node.keywords if keyword.arg != word]
            yield f"{way}: {word}= left out", ast.Call(node.func, node.args, rest)
    if name in ("float", "double", "detach", "clone") and not node.args:
        yield f"{'dtype dropped' if name in ('float', 'double') else name}: .{name}() left out", owner
    if name == "to" and "dtype" in ast.unparse(node):
        yield "dtype dropped: .to(dtype) left out", owner
    if isinstance(node.func, ast.Name) and node.func.id in ("sum_over_processes", "gather_rows"):
        yield "processes forgotten: each for itself", node.args[0]
    if isinstance(node.func, ast.Name) and node.func.id == "chosen_features":
        yield "encoder ignored: always the first", ast.Call(node.func, [node.args[0], ast.Constant("")], [])
    if isinstance(node.func, ast.Name) and node.func.id == "velocity" and len(node.args) == 3:
        yield "end of a step forgotten", ast.Call(node.func, [*node.args[:2], node.args[1]], [])
    if name == "of" and len(node.args) == 1 and isinstance(owner, ast.Name):
        yield "positions forgotten: all tokens", node.args[0]
    if name == "noised" and len(node.args) == 1:
        yield "streams of other times: noised() becomes noisy", ast.Attribute(owner, "noisy", ast.Load())
    if name == "clamp" and [(k.arg, _integer(k.value)) for k in node.keywords] in ([("min", 0)], [("max", 1)]):
        yield "time out of range: .clamp() left out", owner
    if name == "masked_fill":
        yield "mask forgotten: .masked_fill() left out", owner
    if name == "where" and len(node.args) == 3:
        yield "mask forgotten: where() takes its first choice", node.args[1]
        yield "mask forgotten: where() takes its second choice", node.args[2]
    if name == "register_buffer":
        target = ast.Name("setattr", ast.Load())
        yield "buffer not registered", ast.Call(target, [ast.Name("self", ast.Load()), *node.args[:2]], [])
    if name == "manual_seed":
        yield "global generator: seed left out", ast.parse("torch.default_generator", mode="eval").body
    if name in ("mean", "sum") and node.args and (_integer(node.args[0]) or 0) > 0:
        call = copy.deepcopy(node)
        call.args[0] = ast.Tuple([ast.Constant(0), node.args[0]], ast.Load())
        nothing = ast.BinOp(node, ast.Mult(), ast.Constant(0))
        yield "batch leak: over the batch too", ast.BinOp(nothing, ast.Add(), call)
    if isinstance(owner, ast.Name) and owner.id == "self" and name in LAYERS:
        mean = ast.parse(f"({ast.unparse(node)}).mean(0, keepdim=True)", mode="eval").body
        yield "batch leak: a layer's output gets the batch's mean", ast.BinOp(node, ast.Add(), mean)
    if name in REDUCTIONS:
        for i, value in enumerate([*node.args, *(k.value for k in node.keywords if k.arg == "dim")]):
            axis = _integer(value)
            if axis is not None:
                call = copy.deepcopy(node)
                wrong = ast.Constant({-1: -2, 0: 1, 1: 0, 2: 1}.get(axis, 0))
                if i < len(node.args):
                    call.args[i] = wrong
                else:
                    next(k for k in call.keywords if k.arg == "dim").value = wrong
                yield f"wrong axis: {axis} becomes {wrong.value}", call


def _integer(node: ast.AST) -> int | None:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return value if type(value) is int else None


class Replace(ast.NodeTransformer):
    """Puts one node in the place of the n-th one."""

    def __init__(self, place: int, change: int) -> None:
        self.place, self.change, self.seen = place, change, -1

    def visit(self, node: ast.AST) -> Any:
        self.seen += 1
        if self.seen == self.place:
            return ast.fix_missing_locations(ast.copy_location(list(changes(node))[self.change][1], node))
        return self.generic_visit(node)


class Mutant(MetaPathFinder):
    """One change in one module."""

    def __init__(self, module: str, tree: ast.Module, place: int, change: int, node: ast.AST, words: str) -> None:
        self.module, self.tree, self.place, self.change = module, tree, place, change
        self.words, self.line = words, getattr(node, "lineno", 0)
        self.text = " ".join(ast.unparse(node).split())[:70]

    @property
    def way(self) -> str:
        return self.words.partition(":")[0]

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Lets Python import the changed module wherever it would import the true one, also on behalf of a package.

        To be put in the first place of `sys.meta_path`.
        """
        spec = PathFinder.find_spec(name, path) if name == self.module else None
        if spec is not None:
            spec.loader = _Changed(self, str(spec.origin))
        return spec


class _Changed(SourceFileLoader):
    """Loads a module with a change."""

    def __init__(self, mutant: Mutant, path: str) -> None:
        super().__init__(mutant.module, path)
        self.mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        mutant = self.mutant
        tree = Replace(mutant.place, mutant.change).visit(copy.deepcopy(mutant.tree))
        return compile(tree, self.path, "exec")


def mutants(module: str, count: int) -> list[Mutant]:
    """Up to `count` mutants of a module, spread over the ways."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    with open(spec.origin) as file:
        tree = ast.parse(file.read())
    passed_over = {id(inner) for node in ast.walk(tree) if _outside(node) for inner in ast.walk(node)}
    ways: dict[str, list[Mutant]] = defaultdict(list)
    for place, node in enumerate(_in_order(tree)):
        if id(node) not in passed_over:
            for change, (words, _) in enumerate(changes(node)):
                mutant = Mutant(module, tree, place, change, node, words)
                ways[mutant.way].append(mutant)
    shuffle = random.Random(0).shuffle
    for found in ways.values():
        shuffle(found)
    chosen: list[Mutant] = []
    while len(chosen) < count and any(ways.values()):
        chosen += [found.pop() for found in ways.values() if found]
    return chosen[:count]


def _outside(node: ast.AST) -> bool:
    """Whether a part of a module is no business of the contract: options, texts, measurements."""
    if isinstance(node, ast.ClassDef):
        return node.name == "Config" or node.name.endswith("Config")
    return isinstance(node, ast.FunctionDef) and (
        node.name in NOT_IN_THE_CONTRACT or "attribute" in ast.unparse(node.args)
    )


def _in_order(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes in the order in which `Replace` visits them."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        yield from _in_order(child)
