"""Create the tables of the positions and trades of players in a session.

Positions and trades belong to a portfolio and are deleted with it.
"""

from typing import Any

SYMBOL = "^[$^.@#/]?[A-Z0-9][A-Z0-9.^=/:&_@#$!+-]{0,31}$"
PORTFOLIO = """FOREIGN KEY (user_id, session_date)
            REFERENCES portfolios (user_id, session_date) ON DELETE CASCADE"""
UP = (
    f"""CREATE TABLE positions (
        user_id uuid NOT NULL,
        session_date date NOT NULL,
        symbol text NOT NULL,
        quantity numeric NOT NULL,
        average_price numeric NOT NULL,
        PRIMARY KEY (user_id, session_date, symbol),
        CONSTRAINT positions_portfolio {PORTFOLIO},
        CONSTRAINT positions_symbol_format CHECK (symbol ~ '{SYMBOL}'),
        CONSTRAINT positions_quantity_positive CHECK (quantity > 0 AND quantity < 'Infinity'),
        CONSTRAINT positions_price_positive CHECK (average_price > 0 AND average_price < 'Infinity')
    )""",
    f"""CREATE TABLE trades (
        id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
        user_id uuid NOT NULL,
        session_date date NOT NULL,
        symbol text NOT NULL,
        side varchar(4) NOT NULL,
        quantity numeric NOT NULL,
        price numeric NOT NULL,
        executed_at timestamp with time zone NOT NULL DEFAULT now(),
        CONSTRAINT trades_portfolio {PORTFOLIO},
        CONSTRAINT trades_symbol_format CHECK (symbol ~ '{SYMBOL}'),
        CONSTRAINT trades_side CHECK (side IN ('BUY', 'SELL')),
        CONSTRAINT trades_quantity_positive CHECK (quantity > 0 AND quantity < 'Infinity'),
        CONSTRAINT trades_price_positive CHECK (price > 0 AND price < 'Infinity')
    )""",
    "CREATE INDEX trades_portfolio ON trades (user_id, session_date, executed_at, id)",
)


def up(_migrator: Any, db: Any) -> None:
    """Create the tables with their constraints and indexes."""
    for statement in UP:
        db.execute_sql(statement)


def down(_migrator: Any, db: Any) -> None:
    """Drop both tables with their rows."""
    db.execute_sql("DROP TABLE trades, positions")
