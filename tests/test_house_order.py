"""No module of the package imports in a circle, and no room imports one of a floor above it (see CONTRIBUTING.md)."""

import ast
import graphlib
import pathlib

import tsrec_jax

PACKAGE = pathlib.Path(tsrec_jax.__file__).parent
# From the ground up: modules and rooms, and modules that stand on another floor than their room.
FLOORS = (
    ("errors", "files", "addresses", "processes", "progress", "cache", "text_table", "section", "entry", "old_keys"),
    ("programs",),
    ("data",),
    ("text", "prepare", "shop", "models"),
    ("sid", "teacher", "decoding", "baselines"),
    ("training", "fusion", "planning.accounting", "planning.chips"),
    ("evaluation", "planning", "rl"),
    ("serving",),
    ("settings", "settings_page", "experiments", "command_flags", "configs", "pipeline.settings"),
    ("pipeline",),
    ("main", "__main__"),
)
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def modules():
    """{dotted name inside the package: its tree}, without the package's own `__init__`, which only offers names."""
    files = [path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py")]
    found = {".".join(file.parts).removesuffix(".__init__"): file for file in files}
    del found["__init__"]
    return {name: ast.parse((PACKAGE / file).with_suffix(".py").read_text("utf-8")) for name, file in found.items()}


def imports(node, known):
    """Modules that a tree imports, inside functions too; what is only for the type checker does not count."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    for name in [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else ():
        full = f"{node.module}.{name}" if isinstance(node, ast.ImportFrom) else name
        for module in (full, full.rpartition(".")[0]):
            if module.removeprefix("tsrec_jax.") in known:
                yield module.removeprefix("tsrec_jax.")
                break
    for child in ast.iter_child_nodes(node):
        yield from imports(child, known)


def floor(module):
    return FLOOR.get(module, FLOOR.get(module.partition(".")[0]))


def graph():
    trees = modules()
    return {name: set(imports(tree, trees)) - {name} for name, tree in trees.items()}


def test_no_modules_import_in_a_circle():
    assert len(list(graphlib.TopologicalSorter(graph()).static_order())) > 100


def test_every_room_has_a_floor_and_imports_nothing_above_it():
    found = graph()
    assert not {module for module in found if floor(module) is None}
    up = {(module, other) for module, others in found.items() for other in others if floor(module) < floor(other)}
    assert not up
