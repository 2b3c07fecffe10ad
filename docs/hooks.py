"""MkDocs hooks: code excerpts, tables of the zoo and API pages, generated from the package.

These comments in a page are replaced: `code FILE NAME` by the source of a function or class without
its docstring, `zoo results`, `zoo table` and `zoo cards` by tables of the networks.
"""

import ast
import json
from pathlib import Path
import re

from mkdocs.structure.files import File
import zoo
from zoo.facts import facts

ROOT = Path(__file__).parents[1]
CURVES = "zoo/results/cifar10_resnet20_bireal_1w1a/curves.png"
API = (
    "irnet_tf.quantizers", "irnet_tf.ede", "irnet_tf.layers", "irnet_tf.models",
    "irnet_tf.preprocessing", "irnet_tf.model_config", "irnet_tf.data", "irnet_tf.training",
    "irnet_tf.evaluation", "irnet_tf.weights", "irnet_tf.pytorch", "irnet_tf.export",
    "irnet_tf.analysis", "irnet_tf.compare", "irnet_tf.ablation",
    "zoo.loading", "zoo.prediction", "zoo.registry", "zoo.registration", "zoo.runtime",
)  # fmt: skip


def on_config(config):
    config.nav.append({"API": [{name: f"api/{name}.md"} for name in API]})


def on_files(files, config):
    for name in API:
        page = f"# {name}\n\n::: {name}\n"
        if name == "irnet_tf.training":  # the function is hidden by the module of its name
            page += "\n## train\n\n::: irnet_tf.training.train.train\n"
        files.append(File.generated(config, f"api/{name}.md", content=page))
    files.append(File.generated(config, "curves.png", abs_src_path=str(ROOT / CURVES)))


def on_page_markdown(markdown, **_):
    markdown = re.sub(r"<!-- code (\S+) (\S+) -->", lambda m: code(m[1], m[2]), markdown)
    for name, make in {"results": results, "table": table, "cards": cards}.items():
        comment = f"<!-- zoo {name} -->"
        if comment in markdown:
            markdown = markdown.replace(comment, make())
    return markdown


def code(path, name):
    """Returns the source of a function or class without its docstring."""
    text = (ROOT / path).read_text()
    node = next(n for n in ast.walk(ast.parse(text)) if getattr(n, "name", None) == name)
    lines = text.splitlines()
    docstring = node.body[0]
    skip = range(docstring.lineno, docstring.end_lineno + 1)
    kept = [lines[i - 1] for i in range(node.lineno, node.end_lineno + 1) if i not in skip]
    return f'```python title="{path}, line {node.lineno}"\n' + "\n".join(kept) + "\n```"


def entries():
    return {name: zoo.info(name) for name in zoo.list_models()}.items()


def rows(head, cells):
    """Returns a Markdown table; all columns but the first are aligned right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def paper(entry):
    return f"{100 * entry.paper[0]:.2f}".removesuffix("0") if entry.paper else ""


def ours(entry):
    """Returns top-1 of the shipped weights in percent, or ""."""
    if not entry.results:
        return ""
    result = entry.results["result"]
    return f"{100 * result.get('shipped', result['final'])['accuracy']:.2f}"


def link(page, name):
    return f"[{name}]({page}#{re.sub(r'[^a-z0-9_-]', '', name.lower())})"


def results():
    cells = []
    for name, entry in entries():
        if entry.results:
            epochs = entry.results["config"]["identity"]["recipe"]["epochs"]
            cells.append([link("zoo.md", name), entry.bits, paper(entry), ours(entry), str(epochs)])
    return rows(["network", "W/A", "paper", "ours", "epochs"], cells)


def table():
    measured = latencies()
    cells = [
        [
            link("", name),
            f"{entry.sizes['parameters'] / 1e6:.2f}",
            f"{entry.sizes['one_bit'] / 1e6:,.1f}",
            f"{entry.sizes['float'] / 1e6:,.1f}",
            f"{entry.sizes['packed_size'] / 1e6:.2f}",
            paper(entry),
            ours(entry),
            entry.recipe.data,
            measured.get(name, ""),
        ]
        for name, entry in entries()
    ]
    head = "network,parameters,1-bit ops,float ops,file MB,paper,top-1,data,ms"
    return rows(head.split(","), cells)


def latencies():
    """Returns milliseconds per image of the OpenVINO files, as measured first."""
    found = {}
    for path in sorted((ROOT / "benchmarks/results").glob("*.json")):
        for row in json.loads(path.read_text())["tables"].get("latency", []):
            if row["file"] == "OpenVINO 1-bit, binary" and row["batch"] == row["threads"] == 1:
                found.setdefault(row["network"], f"{row['clock median']:.2f}")
    return found


def cards():
    text = ""
    for name, entry in entries():
        text += f"## {name}\n\n| | |\n| --- | --- |\n"
        for title, value in facts(entry).items():
            value = f"`{value}`" if title in ("file", "train", "repeat") else value
            text += f"| {title} | {value} |\n"
        text += "\n"
    return text
