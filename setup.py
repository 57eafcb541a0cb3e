"""Puts recipes, accelerate configs, Slurm scripts and files for clouds into the package, as `bench/_shipped`."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED = ("recipes", "accelerate_configs", "scripts/slurm", "scripts/cloud")


class BuildWithShippedFiles(build_py):
    """Copies them beside the built modules; an editable installation runs from the checkout, which has them."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        place = Path(self.build_lib) / "bench" / "_shipped"
        shutil.rmtree(place, ignore_errors=True)  # what an earlier build left may have been removed since
        for name in SHIPPED:
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": BuildWithShippedFiles})
