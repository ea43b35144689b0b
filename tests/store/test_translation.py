"""The SQL of the operations as PostgreSQL gets it; what is not known is refused."""

from __future__ import annotations

import pytest

from listener.store.groups import NEXT_ATTEMPT, NEXT_GROUP
from listener.store.index import NEXT_SEQUENCE
from listener.store.postgres.translation import translate


@pytest.mark.parametrize(
    ("statement", "expected", "values"),
    [
        ("SELECT a FROM need WHERE b = ? AND c = ?", "SELECT a FROM s.need WHERE b = $1 AND c = $2", (0, 1)),
        ("SELECT ?3, ?1, ? FROM need", "SELECT $1 , $2 , $3 FROM s.need", (2, 0, 3)),
        ("SELECT a FROM need WHERE b = :b OR c = :b", "SELECT a FROM s.need WHERE b = $1 OR c = $1", ("b",)),
        ("UPDATE need SET a = max(a, ?)", "UPDATE s.need SET a = greatest ( a , $1 )", (0,)),
        ("SELECT max(a), min(b) FROM need", "SELECT max ( a ) , min ( b ) FROM s.need", ()),
        ("SELECT min(a, max(b, c)) FROM need", "SELECT least ( a , greatest ( b , c ) ) FROM s.need", ()),
        ("SELECT max(coalesce(a, 1)) FROM need", "SELECT max ( coalesce ( a , 1 ) ) FROM s.need", ()),
        (
            "DELETE FROM need WHERE a IN (SELECT value FROM json_each(?)) AND b = 1",
            "DELETE FROM s.need WHERE a = ANY ($1) AND b = 1",
            (0,),
        ),
        (
            "SELECT a FROM need WHERE a NOT IN (SELECT value FROM json_each(?2)) AND b = ?1",
            "SELECT a FROM s.need WHERE a <> ALL ($1) AND b = $2",
            (1, 0),
        ),
        ("SELECT 1 FROM need n CROSS JOIN tree t ON a = b", "SELECT 1 FROM s.need n JOIN s.tree t ON a = b", ()),
        ("SELECT 1 FROM need INDEXED BY need_due WHERE a", "SELECT 1 FROM s.need WHERE a", ()),
        ("SELECT x'00fF', '?', 'it''s' FROM need", "SELECT '\\x00fF'::bytea , '?' , 'it''s' FROM s.need", ()),
        ("SELECT CAST(a / ? AS INTEGER) FROM need", "SELECT trunc(a / $1)::bigint FROM s.need", (0,)),
        ("SELECT CAST(a AS BLOB) FROM need", "SELECT convert_to(a, 'UTF8') FROM s.need", ()),
        ("SELECT instr(a, '%') > 0 FROM need", "SELECT strpos ( a , '%' ) > 0 FROM s.need", ()),
        ("SELECT object_name(a) FROM need", "SELECT s.object_name ( a ) FROM s.need", ()),
        ("WITH x AS (SELECT 1) SELECT 2 FROM x", "WITH x AS ( SELECT 1 ) SELECT 2 FROM x", ()),
        ("SELECT 1 FROM need /*! FOR UPDATE */ -- last", "SELECT 1 FROM s.need FOR UPDATE", ()),
        (
            "SELECT 1 FROM need WHERE a = ?1 /*! AND b < ?1 / 5 */",
            "SELECT 1 FROM s.need WHERE a = $1 AND b < $1 / 5",
            (0,),
        ),
        (NEXT_SEQUENCE, "SELECT nextval('s.change_number')", ()),
        (NEXT_ATTEMPT, "SELECT nextval('s.attempt_number')", ()),
        (NEXT_GROUP, "SELECT nextval('s.group_number')", ()),
    ],
)
def test_what_differs_is_translated(statement: str, expected: str, values: tuple[int | str, ...]) -> None:
    """Each row of the module's table; each value is bound once, in the order in which it comes first."""
    found = translate(statement, "s")
    assert found.text == expected
    assert found.values == values


def test_rows_come_as_arrays_after_all_other_values() -> None:
    """A column in which every value is NULL takes the type of where it goes."""
    found = translate("SELECT column1, column2, ?1 FROM wanted WHERE column3 = ?2", "s", ("bigint[]", "", "text[]"))
    assert found.text == (
        "SELECT column1 , NULL , $1 FROM unnest((SELECT $3::bigint[]), (SELECT $4::text[]))"
        " AS wanted (column1, column3) WHERE column3 = $2"
    )


def test_a_list_in_json_is_bound_as_a_list() -> None:
    """Others are bound as they are."""
    found = translate("SELECT 1 FROM need WHERE a = ? AND b IN (SELECT value FROM json_each(?))", "s")
    assert found.bind(("[]", '["x", "y"]')) == ["[]", ["x", "y"]]
    assert translate("SELECT 1 FROM need WHERE a = :b", "s").bind({"a": 1, "b": 2}) == [2]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT OR REPLACE INTO need (a) VALUES (1)",
        "SELECT total(a) FROM need",
        "SELECT a FROM sqlite_schema",
        "SELECT a FROM need WHERE b GLOB 'x*'",
        "SELECT a FROM need WHERE b LIKE 'x%'",
        'SELECT "a" FROM need',
        "SELECT a FROM need WHERE b == 1",
        "SELECT a FROM need WHERE b IN (SELECT value FROM json_each(?, '$'))",
        "PRAGMA user_version",
        "SELECT CAST(a AS TEXT) FROM need",
        "SELECT a FROM json_each(?)",
        "SELECT a FROM wanted",
        "SELECT @a FROM need",
        "SELECT max(a FROM need",
    ],
)
def test_what_is_not_known_is_refused(statement: str) -> None:
    """Nothing is passed on in the hope that it means the same."""
    with pytest.raises(ValueError, match="not translated"):
        translate(statement, "s")
