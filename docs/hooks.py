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
    from zoo.facts import facts

    code = ("file", "train", "repeat")
    rows = "\n".join(
        f"| {title} | {f'`{text}`' if title in code else text} |"
        for title, text in facts(entry).items()
    )
    return f"## {name}\n\n| | |\n| --- | --- |\n{rows}\n"
