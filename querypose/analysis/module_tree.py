"""A model as a tree of its modules, with what each takes: parameters and multiply-adds."""

from dataclasses import dataclass

from detectron2.config import CfgNode
from fvcore.nn import parameter_count
from torch import nn

from querypose.analysis.flops import count_operations


@dataclass(frozen=True)
class ModuleCost:
    """What a module takes, with all modules in it.

    Attributes:
        name: in its parent; "" for the model.
        kind: name of its class.
        parameters: numbers that can be trained, as of `Cost`.
        operations: multiply-adds of one image, as of `count_cost`; 0 where inference does not use it.
        children: the modules directly in it.
    """

    name: str
    kind: str
    parameters: int
    operations: int
    children: tuple["ModuleCost", ...]


def module_costs(cfg: CfgNode, height: int, width: int) -> ModuleCost:
    """The config's model, without weights, for one image of `height` x `width` pixels, both multiples of 32.

    The model's sums are the parameters and the total of `count_cost`.
    """
    model, operations = count_operations(cfg, height, width)
    return _cost("", "", model, parameter_count(model), operations)


def _cost(name: str, path: str, module: nn.Module, parameters: dict, operations: dict) -> ModuleCost:
    children = tuple(
        _cost(child_name, f"{path}.{child_name}".lstrip("."), child, parameters, operations)
        for child_name, child in module.named_children()
    )
    # neither the model, whose parts are counted, nor a list of modules is called itself
    own = operations.get(path, sum(child.operations for child in children))
    return ModuleCost(name, type(module).__name__, parameters[path], own, children)


def format_tree(root: ModuleCost, depth: int) -> str:
    """A table of the modules down to `depth` below the model, with each one's share of the whole in percent.

    Neighbours of the same class and the same costs share a line: "0 .. 5" are six modules, each with these numbers.
    Modules that have neither parameters nor operations are left out.
    """
    rows = [("module", "class", "parameters", "%", "multiply-adds", "%")]
    rows += _rows(root, root, depth, "model")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
        cells += [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _rows(node: ModuleCost, root: ModuleCost, depth: int, label: str) -> list[tuple[str, ...]]:
    share = [
        f"{100 * part / whole:.1f}" if whole else "-"
        for part, whole in ((node.parameters, root.parameters), (node.operations, root.operations))
    ]
    rows = [(label, node.kind, _amount(node.parameters), share[0], _amount(node.operations), share[1])]
    groups = _alike(node.children) if depth > 0 else []
    for index, (first, last) in enumerate(groups):
        is_last = index == len(groups) - 1
        name = first.name if first is last else f"{first.name} .. {last.name}"
        inner = _rows(first, root, depth - 1, name)
        # the branch of this child, then the stem beside all that is in it
        marks = ("└─ ", "   ") if is_last else ("├─ ", "│  ")
        rows += [(marks[line > 0] + row[0], *row[1:]) for line, row in enumerate(inner)]
    return rows


def _alike(children: tuple[ModuleCost, ...]) -> list[tuple[ModuleCost, ModuleCost]]:
    """First and last of each run of neighbours that differ in their names alone; those without any cost left out."""
    runs: list[tuple[ModuleCost, ModuleCost]] = []
    for child in children:
        if not child.parameters and not child.operations:
            continue
        if runs and _but_name(runs[-1][0]) == _but_name(child) and child.name.isdecimal():
            runs[-1] = (runs[-1][0], child)
        else:
            runs.append((child, child))
    return runs


def _but_name(cost: ModuleCost) -> tuple:
    return cost.kind, cost.parameters, cost.operations, cost.children


def _amount(number: int) -> str:
    """A number with three or four digits and a letter: 322.5 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f} {letter}"
    return str(number)
