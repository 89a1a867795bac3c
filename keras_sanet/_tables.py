"""Tables as HTML, for results that show themselves in a notebook, and numbers in them."""

import html


def html_table(titles, rows, left=1):
    """A table of texts, escaped.

    Args:
        titles: of the columns.
        rows: lists of cells.
        left: how many columns are flush left; the others, numbers, are flush right.
    """

    def row(cells, tag):
        return "".join(
            f'<{tag} style="text-align: {"left" if index < left else "right"}">'
            f"{html.escape(str(cell))}</{tag}>"
            for index, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return f"<table><thead><tr>{row(titles, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def html_lines(lines):
    """Lines of text, escaped."""
    return "".join(f"<div>{html.escape(line)}</div>" for line in lines)


def rich_cells(table):
    """Titles and rows of a `rich.table.Table`."""
    return [c.header for c in table.columns], list(zip(*(c.cells for c in table.columns)))


def percent(value):
    """A share as text in percent, without the sign; "-" for None and NaN."""
    return "-" if value is None or value != value else f"{100 * value:.2f}"
