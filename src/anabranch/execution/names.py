"""Names of runs: by number, from templates, or from users' functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anabranch.errors import NameTemplateError

Template = str | Callable[..., str]


def default_name(task_name: str, number: int) -> str:
    """The task's name and the number of this run among those of the task, from 0."""
    return f"{task_name}-{number}"


def name_for_call(
    template: Template, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> str:
    """The name that a task's template gives for these arguments.

    Raises `NameTemplateError` where the template uses what the call does not have.
    """
    bound = inspect.signature(fn).bind(*args, **kwargs)
    bound.apply_defaults()
    return fill_template(template, bound.arguments)


def fill_template(template: Template, parameters: Mapping[str, Any]) -> str:
    """A run's name from `"{parameter}"` fields, or from a function.

    The function is called with nothing, or with the parameters as a dict if it takes `parameters`.
    """
    if callable(template):
        takes = inspect.signature(template).parameters
        return str(template(parameters=dict(parameters)) if "parameters" in takes else template())
    try:
        return template.format(**parameters)
    except (KeyError, IndexError, AttributeError, ValueError) as error:
        raise NameTemplateError(template, str(error) or repr(error), parameters) from None
