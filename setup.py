"""Metadata and entry points; settings of tools are in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

here = pathlib.Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "keras_plasticity/__init__.py").read_text())

setup(
    name="keras-plasticity",
    version=version[1],
    description="Shows why neural networks stop learning, and stops it. For TensorFlow/Keras.",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["keras_plasticity", "keras_plasticity.*"]),
    package_data={"keras_plasticity": ["py.typed"]},
    install_requires=[
        "gin-config>=0.5",
        "importlib_resources>=6",  # tensorflow-datasets needs it and does not ask for it
        "keras>=3.12",
        "matplotlib>=3.8",
        "numpy>=1.26",
        "pandas>=2.2",
        "requests>=2.31",
        "rich>=13",
        "scikit-learn>=1.4",
        "scipy>=1.15",
        "tensorboard>=2.21",
        "tensorflow>=2.21",
        "tensorflow-datasets>=4.9.8",
        "threadpoolctl>=3.1",
    ],
    extras_require={
        "parquet": ["pyarrow>=14"],
        "test": [
            "mypy>=1.10",
            "pyarrow>=14",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.6",
        ],
    },
    entry_points={"console_scripts": ["keras-plasticity = keras_plasticity.train:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
