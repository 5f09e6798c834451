"""Question 5: what the design rests on. Most rows are other ways to track with the network of ``tokens``."""

from __future__ import annotations

import dataclasses

from mixformerv2.train.ablations.row import DATA, Row, Table, from_labels, near

_WINDOW_OF_224 = 144 / 224  # search factors as of a crop of 224 px, so that a token shows as much

ROWS = (
    from_labels(
        "symmetric", "templates see the search region too; nothing is cached", near(attention="symmetric")
    ),
    from_labels(
        "labels-shifted",
        "labels half a pixel to the left and up, as released",
        data=dataclasses.replace(DATA, label_shift_px=-0.5),
    ),
    Row(
        "update-off", "the online template stays the first one", of="tokens", rules={"update_threshold": 1.0}
    ),
    Row("three-templates", "two online templates", of="tokens", rules={"online_templates": 2}),
    *(
        Row(
            f"search-{factor}",
            f"search factor {factor} in terms of 224 px",
            of="tokens",
            rules={"search_factor": factor * _WINDOW_OF_224},
        )
        for factor in (4, 5)
    ),
)
TABLES = (
    Table("attention", 5, "Mixed attention", ("tokens", "symmetric")),
    Table(
        *("templates", 5, "Templates and their update", ("tokens", "update-off", "three-templates")),
        note="One network, tracked with in three ways. `tokens` keeps the first template and one online template; "
        "with the update off that is the first template twice, which stands for a single one.",
    ),
    Table(
        *("search-factor", 5, "Search factor while tracking", ("tokens", "search-4", "search-5")),
        note="One network, trained with the factor of `tokens`, which is 4.5 in terms of 224 px.",
    ),
    Table("labels", 5, "Centring of labels", ("tokens", "labels-shifted")),
)
