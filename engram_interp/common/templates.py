"""The package's HTML templates, by name; whatever is put into one is escaped."""

from importlib.resources import files

from jinja2 import Environment, Template


def template(room: str, name: str) -> Template:
    """A template that ships with the package.

    Args:
        room: the folder that it lies in.
        name: its file's name, without the suffix `.html.jinja`.
    """
    text = files(f"engram_interp.{room}").joinpath(f"{name}.html.jinja").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
