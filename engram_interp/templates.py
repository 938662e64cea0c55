"""The package's HTML templates, by name; whatever is put into one is escaped."""

from importlib.resources import files

from jinja2 import Environment, Template


def template(name: str) -> Template:
    """A template that ships with the package.

    Args:
        name: its file's name, without the suffix `.html.jinja`.
    """
    text = files("engram_interp").joinpath(f"{name}.html.jinja").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
