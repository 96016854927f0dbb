"""The page at /docs: the OpenAPI description of the service as plain HTML that loads nothing from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import Response

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>tsrec: the HTTP interface</title>
<link rel="stylesheet" href="page.css"><link rel="icon" href="icon.svg">
<body><main>
<h1>The HTTP interface</h1>
<p>For programs: <a href="openapi.json">openapi.json</a>. <a href="./">The page</a>.</p>
{operations}
</main></body></html>
"""
_Json = Mapping[str, Any]


def docs_routes(app: FastAPI) -> APIRouter:
    """GET /docs.

    Args:
      app: the application described; it is read when the page is requested.
    """
    routes = APIRouter(include_in_schema=False)

    @routes.get("/docs")
    def docs() -> Response:
        return Response(_PAGE.format(operations="\n".join(_operations(app.openapi()))), media_type="text/html")

    return routes


def _operations(api: _Json) -> Iterator[str]:
    schemas = api.get("components", {}).get("schemas", {})
    for path, methods in api["paths"].items():
        for method, told in methods.items():
            yield f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>"
            yield f"<p>{html.escape(told.get('description') or told.get('summary', ''))}</p>"
            rows = [(one["name"], one["schema"], one["required"]) for one in told.get("parameters", ())]
            body = told.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if body is not None:
                rows += _fields(_resolved(body, schemas))
            if rows:
                yield from _table(rows, schemas)
            if told.get("security"):
                yield "<p>Needs the admin token.</p>"
            for kind, content in told["responses"]["200"]["content"].items():
                answer = html.escape(_kind(content["schema"], schemas))
                yield f"<p>The answer, <code>{kind}</code>: <code>{answer}</code></p>"


def _fields(schema: _Json) -> list[tuple[str, _Json, bool]]:
    needed = schema.get("required", ())
    return [(name, one, name in needed) for name, one in schema.get("properties", {}).items()]


def _table(rows: list[tuple[str, _Json, bool]], schemas: _Json) -> Iterator[str]:
    yield "<table><tr><th>key</th><th>what</th><th>default</th></tr>"
    for name, schema, needed in rows:
        default = "needed" if needed else json.dumps(schema.get("default"))
        cells = (name, _kind(schema, schemas), default)
        yield "<tr>" + "".join(f"<td><code>{html.escape(cell)}</code></td>" for cell in cells) + "</tr>"
    yield "</table>"


def _kind(schema: _Json, schemas: _Json) -> str:
    """What a value may be, in a few words."""
    if "$ref" in schema:
        return "{" + ", ".join(name for name, _, _ in _fields(_resolved(schema, schemas))) + "}"
    if "anyOf" in schema:
        return " or ".join(_kind(one, schemas) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(map(json.dumps, schema["enum"]))
    names = {"minimum": "from", "maximum": "to", "minItems": "from", "maxItems": "to", "maxLength": "up to"}
    bounds = "".join(f" {word} {schema[key]}" for key, word in names.items() if key in schema)
    of = f" of {_kind(schema['items'], schemas)}" if schema.get("items") else ""
    return f"{schema.get('type', 'any')}{bounds}{of}"


def _resolved(schema: _Json, schemas: _Json) -> _Json:
    found: _Json = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return found
