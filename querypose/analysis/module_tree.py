"""A table of a model's modules, with the parameters and multiply-adds of each."""

from detectron2.config import CfgNode
from fvcore.nn import parameter_count
from tabulate import tabulate
from torch import nn

from querypose.analysis.flops import count_operations


def module_table(cfg: CfgNode, height: int, width: int, depth: int) -> str:
    """The modules down to `depth` below the model, each with its share of the whole in percent.

    Numbered neighbors of the same class and costs share a line: "0 .. 5" are six modules, each with these numbers.
    Modules with neither parameters nor multiply-adds are omitted.

    Args:
        cfg: config of the model; no weights are loaded.
        height, width: of the image in pixels, multiples of 32.
    """
    model, operations = count_operations(cfg, height, width)
    parameters = parameter_count(model)
    rows: list[list[str | int]] = []

    def add(module: nn.Module, path: str, label: str, level: int) -> None:
        costs = parameters[path], operations.get(path, 0)
        row: list[str | int] = ["  " * level + label, type(module).__name__]
        for cost, whole in zip(costs, (parameters[""], operations[""]), strict=True):
            row += [_with_unit(cost), f"{100 * cost / whole:.1f}"]
        rows.append(row)
        groups: list[tuple[tuple[type[nn.Module], int, int, bool], list[str]]] = []
        for name, child in module.named_children() if level < depth else ():
            inner = f"{path}.{name}".lstrip(".")
            key = type(child), parameters[inner], operations.get(inner, 0), name.isdecimal()
            if groups and groups[-1][0] == key and name.isdecimal():
                groups[-1][1].append(name)
            elif any(key[1:3]):
                groups.append((key, [name]))
        for _, names in groups:
            shown = names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}"
            add(module.get_submodule(names[0]), f"{path}.{names[0]}".lstrip("."), shown, level + 1)

    add(model, "", "model", 0)
    header = ["module", "class", "parameters", "%", "multiply-adds", "%"]
    return tabulate(
        rows, header, colalign=("left", "left", *["right"] * 4), disable_numparse=True, preserve_whitespace=True
    )


def _with_unit(number: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
