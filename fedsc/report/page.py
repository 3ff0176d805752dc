"""The page: one self-contained HTML file, readable on a phone, on paper and by a screen reader.

It is text in Python because Flower copies only code to where a run is led. Everything put into it
is escaped, since names of labs, genes and types are what strangers have written.
"""

from functools import lru_cache
from typing import Any

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
:root { --ink: #1a1a1a; --soft: #555; --paper: #fff; --line: #ccc; --band: #f3f5f7; --link: #0058a3;
  --warn: #8a3b00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --soft: #b0b0b0; --paper: #16181b; --line: #444; --band: #22262b;
    --link: #8cc4ff; --warn: #ffb27a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid var(--line); }
a { color: var(--link); }
a:focus-visible, [tabindex]:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
p, li { max-width: 46rem; }
.lead { font-size: 1.1rem; }
.soft, figcaption, caption { color: var(--soft); }
.warn { color: var(--warn); }
nav ul { padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; }
td.genes { min-width: 14rem; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em;
  border: 1px solid var(--line); }
.pictures { display: flex; flex-wrap: wrap; gap: 0 1rem; }
figure { margin: 1rem 0; flex: 0 1 auto; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { background: var(--band); padding: .7rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@media print {
  :root { --ink: #000; --soft: #444; --paper: #fff; --line: #bbb; --band: #f3f3f3; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  .wide { overflow: visible; }
}
</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
{% for sentence in lead %}<p class="lead">{{ sentence }}</p>
{% endfor %}
<nav aria-label="Sections"><ul>
{% for section in sections %}<li><a href="#s{{ loop.index }}">{{ section.title }}</a></li>
{% endfor %}</ul></nav>
</header>
<main>
{% for section in sections %}
<section aria-labelledby="s{{ loop.index }}">
<h2 id="s{{ loop.index }}">{{ section.title }}</h2>
{% for text in section.texts %}<p>{{ text }}</p>
{% endfor %}
{% if section.warnings %}<ul>
{% for text in section.warnings %}<li class="warn">{{ text }}</li>
{% endfor %}</ul>{% endif %}
{% if section.pictures %}<div class="pictures">{% endif %}
{% for picture in section.pictures %}
<figure><img src="data:image/png;base64,{{ picture.data }}" alt="{{ picture.alt }}"
 width="{{ picture.width }}" height="{{ picture.height }}">
<figcaption>{{ picture.caption }}</figcaption></figure>
{% endfor %}
{% if section.pictures %}</div>{% endif %}
{% for table in section.tables %}
<div class="wide" role="region" tabindex="0" aria-label="{{ table.caption }}">
<table><caption>{{ table.caption }}</caption>
<thead><tr>{% for name in table.head %}
<th scope="col"{% if name in table.numbers %} class="n"{% endif %}>{{ name }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}{% set i = loop.index0 %}<tr>{% for name in table.head %}
{% if loop.first %}<th scope="row"{% if name in table.numbers %} class="n"{% endif %}>
{%- if table.colours %}<span class="swatch" style="background: {{ table.colours[i] }}"></span>
{%- endif %}{{ row[loop.index0] }}</th>
{%- else %}<td class="{{ 'n' if name in table.numbers else 'genes' if name == 'markers' }}">
{{- row[loop.index0] }}</td>{% endif %}{% endfor %}
</tr>
{% endfor %}</tbody></table></div>
{% endfor %}
{% if section.code %}<pre><code>{{ section.code }}</code></pre>{% endif %}
</section>
{% endfor %}
</main>
<footer><p class="soft">Made by FedSC {{ version }}. This page holds no link to anything outside it.
</p></footer>
</body>
</html>
"""


def render(**content: Any) -> str:
    """Fill the page: ``title``, ``lead`` (sentences), ``sections``, ``version``."""
    return str(_template().render(**content))


@lru_cache(maxsize=1)
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(PAGE)
