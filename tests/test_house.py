"""Structure of the code: import layers and sizes."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("irnet_tf/**/*.py"), *ROOT.glob("zoo/**/*.py"), ROOT / "train.py"])
TREES = {path: ast.parse(path.read_text()) for path in FILES}


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports(path):
    """Yields the project's modules that a file imports when it is imported itself."""
    for node in TREES[path].body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            # A submodule, or a name in a module.
            names = [
                name if (name := f"{node.module}.{alias.name}") in MODULES else node.module
                for alias in node.names
            ]
        else:
            continue
        yield from (name for name in names if name in MODULES)


GRAPH = {module: set(imports(path)) - {module} for module, path in MODULES.items()}


def test_the_import_graph_has_no_cycle():
    done = set()

    def visit(module, way):
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for other in sorted(GRAPH[module]):
                visit(other, [*way, module])
            done.add(module)

    for module in GRAPH:
        visit(module, [])


# A module imports modules of lower layers only, and of its own.
LAYERS = [
    ("irnet_tf._utils", "irnet_tf._compat"),
    ("irnet_tf.quantizers", "irnet_tf.ede", "irnet_tf.preprocessing", "irnet_tf.plotting"),
    ("irnet_tf.layers", "irnet_tf.model_config"),
    ("irnet_tf.models", "irnet_tf.pytorch", "irnet_tf.weights", "irnet_tf.data"),
    ("irnet_tf.evaluation", "irnet_tf.training", "irnet_tf.analysis.measures"),
    ("irnet_tf.export", "irnet_tf.analysis", "irnet_tf.compare", "irnet_tf.ablation"),
    ("zoo",),
    ("train",),
]


def layer(module):
    for number, names in enumerate(LAYERS):
        if any(module == name or module.startswith(f"{name}.") for name in names):
            return number
    return None  # irnet_tf itself


def test_modules_import_lower_layers_only():
    unplaced = [
        m for m in MODULES if layer(m) is None and m not in ("irnet_tf", "irnet_tf.__main__")
    ]
    assert not unplaced
    arrows = [(m, o) for m, others in GRAPH.items() for o in others]
    placed = [(m, o) for m, o in arrows if layer(m) is not None and layer(o) is not None]
    assert not [(m, o) for m, o in placed if layer(o) > layer(m)]


LONGEST_FUNCTION, LONGEST_FILE = 80, 300


def test_files_and_functions_are_short():
    large = []
    for path, tree in TREES.items():
        lines = len(path.read_text().splitlines())
        if lines > LONGEST_FILE:
            large.append(f"{module_of(path)}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    large.append(f"{module_of(path)}.{node.name}: {length} lines")
    assert not large
