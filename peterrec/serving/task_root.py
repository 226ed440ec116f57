"""The folder from which tasks may be added over HTTP."""

from pathlib import Path, PurePosixPath, PureWindowsPath

from peterrec.errors import SettingsError


class TaskRoot:
    """Runs under the folder `root`, and nothing else. Raises SettingsError where there is no such folder."""

    def __init__(self, root: Path, *, encoder: Path) -> None:
        if not root.is_dir():
            raise SettingsError(f"--allow-changes {root}: there is no such folder; name the one that holds the runs.")
        self.root = root.resolve()
        self._encoders = (str(encoder.resolve()), str(encoder))

    def folder(self, name: str) -> Path:
        """The folder `name` under the root. Raises SettingsError for any that is not, links included."""
        refused = SettingsError("folder must name a run under the folder that the server allows, such as 'gender'.")
        if "\0" in name or "\\" in name or PureWindowsPath(name).drive:
            raise refused
        given = PurePosixPath(name)
        if given.is_absolute() or ".." in given.parts or not given.parts:
            raise refused
        try:
            found = (self.root / given).resolve(strict=True)
        except (OSError, RuntimeError):  # absent, too long, or a ring of links
            raise refused from None
        if not found.is_relative_to(self.root) or found == self.root or not found.is_dir():
            raise refused
        return found

    def hidden(self, text: str) -> str:
        """What is said to a client: without the places of root and encoder on this machine."""
        for place in self._encoders:
            text = text.replace(place, "the encoder of this server")
        return text.replace(f"{self.root}/", "").replace(str(self.root), ".")
