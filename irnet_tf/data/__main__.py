"""Checks a folder of images: classes, number of images, files that cannot be read.

python -m irnet_tf.data FOLDER
"""

import argparse
from pathlib import Path
import sys

from irnet_tf.data import folder


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(prog="python -m irnet_tf.data", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with train/CLASS/* and test/CLASS/*")
    parser.add_argument(
        "--validation_split", type=float, help="share of each class for testing; see train.py"
    )
    options = parser.parse_args(argv)
    try:
        train, test, bad, _ = folder.scan(options.folder, options.validation_split, decode=True)
    except (ValueError, OSError) as error:
        sys.exit(f"irnet_tf.data: {error}")
    width = max(map(len, (*train, "class")))
    print(f"{'class':{width}}  train   test")
    for name in sorted(train):
        print(f"{name:{width}} {len(train[name]):6} {len(test[name]):6}")
    if bad:
        sys.exit("\n".join([f"{len(bad)} image(s) cannot be read:", *bad]))
    print("every image can be read")


if __name__ == "__main__":
    main()
