"""`python -m zoo`: the networks as a table."""

import zoo


def main():
    row = "{:34}{:>6}{:>7}{:>7}{:>7}  {}".format
    print(row("top-1, %", "W/A", "paper", "last", "best", "weights"))
    for name in zoo.list_models():
        entry = zoo.info(name)
        bits = "{}/{}".format(
            *(entry.arguments.get(f"{kind}_bits", 1) for kind in ("weight", "activation"))
        )
        paper = "-" if entry.paper is None else f"{100 * entry.paper[0]:.1f}"
        last = best = "-"
        weights = f"none yet: python train.py --model={name}"
        if entry.results:
            last, best = (
                f"{100 * entry.results['result'][which]['accuracy']:.2f}"
                for which in ("final", "best")
            )
            identity = entry.results["config"]["identity"]
            epochs, data = identity["recipe"]["epochs"], identity["data"]["name"]
            weights = f"{entry.weights.file}: last of {epochs} epochs on {data}"
        print(row(name, bits, paper, last, best, weights))


if __name__ == "__main__":
    main()
