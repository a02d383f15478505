"""QueryPose as an installable package: `pip install -e .` (Detectron2 comes before, see docs/INSTALL.md)."""

from setuptools import find_packages, setup

setup(
    name="querypose",
    version="0.1.0",
    description="QueryPose: sparse end-to-end multi-person pose estimation as a Detectron2 extension",
    license="Apache-2.0",
    packages=find_packages(include=["querypose", "querypose.*"]),
    package_data={"querypose": ["**/*.json", "py.typed"]},
    entry_points={"console_scripts": ["querypose = querypose.cli:main"]},
    python_requires=">=3.11",
    # Detectron2 is missing here on purpose: it is on no package registry under its own name, so pip cannot
    # install it. tools/install_detectron2.py does, and `from querypose import ..` says so when it is absent.
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "faster-coco-eval>=1.6",
        "fvcore>=0.1.5,<0.1.6",  # Detectron2's own bound
        "huggingface_hub>=0.25",
        "hydra-core>=1.1",
        "iopath>=0.1.7,<0.2",
        "matplotlib>=3.7",
        "networkx>=3",
        "numpy>=1.26",
        "omegaconf>=2.1,<2.4",  # hydra-core 1.3 does not run with 2.4
        "opencv-python-headless>=4.8",
        "Pillow>=10.1",
        "pycocotools>=2.0.7",
        "safetensors>=0.4",
        "scipy>=1.11",
        "tensorboard",
        "tabulate>=0.10",  # preserve_whitespace
        "timm>=1.0",
        "tqdm>=4.60",
        "yacs>=0.1.8",
    ],
    extras_require={
        "test": [
            "gradio>=6",
            "hypothesis>=6",
            "motmetrics>=1.4",
            "mypy>=1.10",
            "onnx>=1.16",
            "onnxruntime>=1.18",
            "openvino>=2024.4",
            "pandas>=2",
            "pytest>=8",
            "pytest-cov>=5",
            "pytest-xdist>=3.5",
            "ray[data]>=2.30",
            "ruff>=0.6",
            "selenium>=4.20",
            "supervision>=0.29",
        ],
        "heif": ["pillow-heif>=0.18"],
        "onnx": ["onnx>=1.16", "onnxruntime>=1.18"],
        "openvino": ["onnx>=1.16", "openvino>=2024.4"],
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.5"],
        "ray": ["ray[data]>=2.30"],
        "supervision": ["supervision>=0.29"],
        "tables": ["pandas>=2"],
        "web": ["gradio>=6"],
    },
)
