"""The figures of a report page, by plotly. Every text is escaped: plotly reads some of HTML in them."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .compare import Comparison
from .curves import AXES, Band, Curve
from .facts import CLIENT_FIGURES, Facts, first_runs
from .looks import style

ON_LOG = ("uplink", "bytes")
LONGEST_NAME = 28
"""Characters of a tensor's name beside the map; of a longer one its end."""
FONT = {"family": "system-ui, sans-serif", "size": 13}


def curves(comparison: Comparison) -> go.Figure:
    """The metric, and the loss below it, against what a run costs; a menu says which cost."""
    shown = [comparison.metric, *(["loss"] if comparison.metric != "loss" and _has_loss(comparison) else [])]
    figure = make_subplots(rows=len(shown), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    along: dict[str, list[Any]] = {axis: [] for axis in AXES}
    for row, metric in enumerate(shown, start=1):
        for number, label in enumerate(comparison.methods):
            band = Band.of([_as(curve, metric) for curve in comparison.runs_of(label)])
            for trace, costs in _traces(band, label, number, metric, is_named=row == 1):
                figure.add_trace(trace, row=row, col=1)
                for axis in AXES:
                    along[axis].append(costs[axis])
        figure.update_yaxes(title_text=escape(metric), row=row, col=1)
    last = f"xaxis{len(shown)}" if len(shown) > 1 else "xaxis"
    every = [f"xaxis{number}" if number > 1 else "xaxis" for number in range(1, len(shown) + 1)]
    buttons = [
        {
            "label": name,
            "method": "update",
            "args": [
                {"x": along[axis]},
                {f"{last}.title.text": name}
                | {f"{one}.type": "log" if axis in ON_LOG else "linear" for one in every}
                | {f"{one}.autorange": True for one in every},
            ],
        }
        for axis, name in AXES.items()
    ]
    figure.update_xaxes(title_text=AXES["rounds"], row=len(shown), col=1)
    _lay_out(figure, 330 * len(shown) + 120, buttons)
    return figure


def _traces(
    band: Band, label: str, number: int, metric: str, is_named: bool
) -> list[tuple[go.Scatter, Mapping[str, Sequence[float]]]]:
    """A method's band and line, and where each lies along every cost. The legend hides both."""
    colour, dash = style(number)
    group = {"legendgroup": str(number), "name": escape(label, quote=False)}
    traces: list[tuple[go.Scatter, Mapping[str, Sequence[float]]]] = []
    if band.count > 1:
        around = np.concatenate([band.mean + band.deviation, (band.mean - band.deviation)[::-1]])
        along = {axis: np.concatenate([cost, cost[::-1]]).tolist() for axis, cost in band.costs.items()}
        traces.append(
            (
                go.Scatter(
                    x=along["rounds"], y=around.tolist(), fill="toself", fillcolor=_faint(colour), mode="lines",
                    line={"width": 0}, hoverinfo="skip", showlegend=False, **group,
                ),
                along,
            )
        )  # fmt: skip
    along = {axis: cost.tolist() for axis, cost in band.costs.items()}
    hover = "%{y:.4f}" + (" ± %{customdata:.4f}" if band.count > 1 else "")
    traces.append(
        (
            go.Scatter(
                x=along["rounds"], y=band.mean.tolist(), customdata=band.deviation.tolist(), mode="lines",
                line={"color": colour, "dash": dash, "width": 2}, showlegend=is_named,
                hovertemplate=f"{escape(metric)} {hover} at %{{x}}<extra>{group['name']}</extra>", **group,
            ),
            along,
        )
    )  # fmt: skip
    return traces


def clients(facts: Facts) -> go.Figure:
    """A point for each method and client; a menu says what of it."""
    table = facts.client_figures()
    figures = [name for name in CLIENT_FIGURES if name in table and table[name].notna().any()]
    figure = go.Figure()
    heights: dict[str, list[Any]] = {name: [] for name in figures}
    for number, label in enumerate(facts.comparison.methods):
        own = table[table["method"] == label].sort_values("client")
        figure.add_trace(
            go.Scatter(
                x=own["client"].tolist(), y=_plain(own[figures[0]]), mode="markers", name=escape(label, quote=False),
                marker={"color": style(number)[0], "size": 7, "opacity": 0.7},
                customdata=[escape(tier, quote=False) for tier in own["tier"]],
                hovertemplate="client %{x}, tier %{customdata}: %{y}<extra></extra>",
            )
        )  # fmt: skip
        for name in figures:
            heights[name].append(_plain(own[name]))
    said = {name: escape(CLIENT_FIGURES[name].format(metric=facts.comparison.metric)) for name in figures}
    buttons = [
        {"label": said[name], "method": "update", "args": [{"y": heights[name]}, {"yaxis.title.text": said[name]}]}
        for name in figures
    ]
    figure.update_layout(xaxis_title="client", yaxis_title=said[figures[0]])
    _lay_out(figure, 420, buttons)
    return figure


def levels(facts: Facts) -> go.Figure | None:
    """How often each level was drawn, and with which chance; None where nothing was drawn."""
    table = facts.levels()
    if table.empty:
        return None
    figure = go.Figure()
    for number, label in enumerate(facts.comparison.methods):
        own = table[table["method"] == label]
        if own.empty:
            continue
        colour, name = style(number)[0], escape(label, quote=False)
        figure.add_trace(
            go.Bar(x=own["level"].tolist(), y=_plain(own["share"]), name=name, marker={"color": colour},
                   legendgroup=str(number), hovertemplate="level %{x}: %{y:.3f} of draws<extra></extra>")
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(x=own["level"].tolist(), y=_plain(own["probability"]), mode="markers", showlegend=False,
                       name=name, legendgroup=str(number),
                       marker={"color": colour, "symbol": "diamond", "size": 8, "line": {"width": 1, "color": "white"}},
                       hovertemplate="level %{x}: drawn with a chance of %{y:.3f} on average<extra></extra>")
        )  # fmt: skip
    figure.update_layout(xaxis_title="level", yaxis_title="draws; ◆ chance", barmode="group")
    figure.update_layout(scattermode="group", xaxis={"tick0": 1, "dtick": _whole_step(table["level"].max())})
    _lay_out(figure, 380)
    return figure


def coverage(facts: Facts) -> go.Figure | None:
    """Tensors by rounds: mean clients that hold a coordinate; a menu says of which method's first run.

    None where no log tells of it.
    """
    found = {curve.label: facts.coverage(curve.directory) for curve in first_runs(facts.comparison)}
    found = {label: table for label, table in found.items() if not table.empty}
    if not found:
        return None
    figure = go.Figure()
    most = max(len(table) for table in found.values())
    for number, table in enumerate(found.values()):
        figure.add_trace(
            go.Heatmap(
                z=table.to_numpy(float).tolist(), x=table.columns.tolist(),
                y=[escape(_short(name), quote=False) for name in table.index], colorscale="Viridis", zmin=0,
                visible=number == 0, hovertemplate="%{y}, round %{x}: %{z:.2f} clients<extra></extra>",
            )
        )  # fmt: skip
    names = [escape(label, quote=False) for label in found]
    buttons = [
        {"label": name, "method": "restyle", "args": ["visible", [one == number for one in range(len(names))]]}
        for number, name in enumerate(names)
    ]
    figure.update_layout(xaxis_title="round", yaxis={"autorange": "reversed", "automargin": True})
    _lay_out(figure, min(900, 200 + 18 * most), buttons if len(buttons) > 1 else None)
    return figure


def _whole_step(most: float) -> int:
    """Between ticks of whole numbers up to `most`: a dozen of them at most."""
    return max(1, round(most / 12))


def _short(name: object) -> str:
    text = str(name)
    return text if len(text) <= LONGEST_NAME else "…" + text[1 - LONGEST_NAME :]


def _lay_out(figure: go.Figure, height: int, buttons: list[dict[str, Any]] | None = None) -> None:
    menus = []
    if buttons:
        look = {"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 8}, "bgcolor": "white"}
        menus = [{"buttons": buttons, "direction": "down", "showactive": True, **look}]
    figure.update_layout(
        height=height,
        template="plotly_white",
        font=FONT,
        margin={"l": 60, "r": 16, "t": 56 if buttons else 24, "b": 40},
        legend={"orientation": "h", "x": 0, "y": -60 / height, "yanchor": "top"},
        updatemenus=menus,
    )


def _has_loss(comparison: Comparison) -> bool:
    return all(_as(curve, "loss") is not None for curve in comparison.curves)


def _as(curve: Curve, metric: str) -> Curve:
    return curve if metric == curve.metric else Curve.read(curve.directory, curve.label, metric)


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def _plain(values: pd.Series) -> list[float | None]:
    return [None if pd.isna(value) else float(value) for value in values]
