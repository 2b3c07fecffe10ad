"""`python -m zoo`: the networks as a table."""

import zoo


def main():
    row = "{:34}{:>6}{:>8}{:>9}  {}".format
    print(row("network", "W/A", "paper", "ours", "weights"))
    for name in zoo.list_models():
        entry = zoo.info(name)
        bits = "{}/{}".format(
            *(entry.arguments.get(f"{kind}_bits", 1) for kind in ("weight", "activation"))
        )
        paper = "-" if entry.paper is None else f"{100 * entry.paper[0]:.1f}"
        ours, weights = "-", f"none yet: python train.py --model={name}"
        if entry.results:
            result = entry.results["result"]["best"]
            identity = entry.results["config"]["identity"]
            ours = f"{100 * result['accuracy']:.2f}"
            weights = (
                f"{entry.weights.file} ({identity['recipe']['epochs']} epochs, "
                f"{identity['data']['name']})"
            )
        print(row(name, bits, paper, ours, weights))


if __name__ == "__main__":
    main()
