"""What the site takes from the code while it is built: functions and the zoo's facts.

A comment `code FILE FUNCTION` in a page becomes the function without its docstring, a comment
`zoo cards` a card for each network.
"""

import ast
from pathlib import Path
import re

ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown, **_):
    markdown = re.sub(r"<!-- code (\S+) (\S+) -->", lambda m: code(m[1], m[2]), markdown)
    return markdown.replace(
        "<!-- zoo cards -->", cards() if "<!-- zoo cards -->" in markdown else ""
    )


def code(path, name):
    """A function's lines, numbered as in its file. Raises StopIteration if it is not there."""
    text = (ROOT / path).read_text()
    node = next(n for n in ast.walk(ast.parse(text)) if getattr(n, "name", None) == name)
    lines = text.splitlines()
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    skip = range(first.lineno, first.end_lineno + 1) if documented else ()
    kept = [lines[i - 1] for i in range(node.lineno, node.end_lineno + 1) if i not in skip]
    return f'```python title="{path}, line {node.lineno}"\n' + "\n".join(kept) + "\n```"


def cards():
    import zoo

    return "\n".join(card(name, zoo.info(name)) for name in zoo.list_models())


def card(name, entry):
    facts = {
        "weights / activations": "{} / {} bit".format(
            *(entry.arguments.get(f"{kind}_bits", 1) for kind in ("weight", "activation"))
        ),
        "images": str(entry.preprocessing),
        "paper": "-" if entry.paper is None else f"{100 * entry.paper[0]:.1f} % top-1",
    }
    if entry.results:
        result, config = entry.results["result"], entry.results["config"]["identity"]
        facts["ours"] = (
            f"{100 * result['final']['accuracy']:.2f} % after the last epoch, "
            f"{100 * result['best']['accuracy']:.2f} in the best; {config['data']['name']}, "
            f"{config['recipe']['epochs']} epochs, seed {config['seed']}, one run"
        )
    if entry.weights:
        facts["file"] = f"`{entry.weights.file}`, {entry.weights.size:,} bytes"
    for recipe_name, recipe in entry.recipes.items():
        facts[f"recipe {recipe_name}"] = (
            f"{recipe.epochs} epochs of {recipe.batch_size}, rate {recipe.learning_rate:g} "
            f"({recipe.schedule}), decay {recipe.weight_decay:g}, t {recipe.t_min:g} to "
            f"{recipe.t_max:g}"
        )
    facts["train"] = f"`python train.py --model={name}`"
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return f"## {name}\n\n| | |\n| --- | --- |\n{rows}\n"
