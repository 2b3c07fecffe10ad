"""Packaging of irnet_tf. Versions are those tried together; see README."""

from pathlib import Path
import re

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(
    r'^__version__ = "(.+)"$', (here / "irnet_tf/__init__.py").read_text(), re.MULTILINE
).group(1)

deploy = ["larq-compute-engine==0.16.0"]
docs = ["mkdocs-material==9.*", "mkdocstrings[python]>=0.26"]
openvino = ["openvino==2026.4.*"]

setup(
    name="irnet_tf",
    version=version,
    description="IR-Net: accurate binary neural networks in TensorFlow, Keras and Larq",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    url="https://arxiv.org/abs/1909.10788",  # the paper
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["irnet_tf", "irnet_tf.*", "zoo", "zoo.*"]),
    package_data={
        "irnet_tf": ["py.typed"],
        "zoo": ["weights/*.safetensors", "results/**/*", "*.csv"],
    },
    # Lets irnet_tf find networks by name without knowing who has them.
    entry_points={"irnet_tf.networks": ["zoo = zoo:load"]},
    python_requires=">=3.10,<3.13",
    install_requires=[
        "tensorflow==2.19.*",
        "tf-keras==2.19.*",
        "larq==0.14.0",
        "larq-zoo==2.4.0",
        "tensorflow-datasets==4.8.3",
        "protobuf>=3.20.3,<3.21",  # what larq-zoo and tensorflow-datasets 4.8 work with
        "tensorflow-metadata==1.14.*",  # the last for that protobuf: spares pip a long search
        "numpy>=1.26,<2",
        "absl-py",
        "filelock",
        "matplotlib",
        "pillow",
        "pooch",
        "safetensors",
        "setuptools; python_version >= '3.12'",  # distutils for tensorflow-datasets 4.8
        "scikit-learn",
        "tensorboard==2.19.*",
        "tomli; python_version < '3.11'",
        "tqdm",
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]==2.19.*"],
        "deploy": deploy,
        "openvino": openvino,
        "docs": docs,
        "dev": [
            *deploy,
            *openvino,
            *docs,
            "build",
            "pre-commit",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "pyyaml",
            "ruff==0.17.*",
        ],
    },
    classifiers=[
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
    ],
)
