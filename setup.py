"""For tools that still call `python setup.py`; everything stands in pyproject.toml, but for `mrcnn_imgaug.pth`.

imgaug 0.4.0, its last release, can't be imported on NumPy 2 until `mrcnn` has given `np.sctypes` back, and most scripts
import imgaug first. Python runs the lines of a `.pth` file in site-packages at its start. Ours puts a finder in front
of the import system, which finds nothing itself; when it is asked for imgaug, it imports mrcnn first. To be rid of it,
delete the file: `import mrcnn` before `import imgaug` does the same.
"""

from pathlib import Path

from setuptools import Command, setup

STARTUP_FILE = "mrcnn_imgaug.pth"
STARTUP = (
    'import sys; sys.meta_path.insert(0, type("ImportMrcnnBeforeImgaug", (), {"find_spec": staticmethod('
    'lambda name, path=None, target=None: __import__("mrcnn") and None'
    ' if name == "imgaug" and __import__("importlib.util").util.find_spec("mrcnn") else None)}))\n'
)


class InstallStartup(Command):
    """Writes the file beside the package.

    It stands in for the step that installs C headers, of which there are none: the only one that wheels and editable
    installs both go through.
    """

    user_options = []

    def initialize_options(self):
        self.written = []

    def finalize_options(self):
        """Nothing to decide."""

    def run(self):
        path = Path(self.get_finalized_command("install").install_lib, STARTUP_FILE)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STARTUP)
        self.written = [str(path)]

    def get_outputs(self):
        return self.written


setup(cmdclass={"install_headers": InstallStartup}, headers=[STARTUP_FILE])
