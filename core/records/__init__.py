"""The immutable values that the service returns and accepts.

Owns shapes only: attributes are the column names. Never touches a server, so a
value can be shared by every thread and cached as it is. JSON columns are
`frozendict`: equal to a dict, accepted by `json.dumps`, not changeable. Every record has `asdict()`.
"""

from core.records.documents import freeze
from core.records.game import (
    BatchResult,
    Candle,
    LeaderboardEntry,
    LeaderboardUpdate,
    MarketEvent,
    PlayerSession,
    Portfolio,
    PortfolioUpdate,
    Position,
    Quest,
    Tick,
    Trade,
    User,
)
from core.records.operations import (
    AuditAction,
    AuditEvent,
    AuditOutcome,
    CacheCounts,
    CacheStats,
    Health,
    PartitionReport,
    PoolStats,
    PoolUse,
    StatementFigures,
    TableFigures,
    UnusedIndex,
)
from core.records.record import Record
from core.records.summaries import (
    BoardSummary,
    MarketReturn,
    PeriodBoard,
    PeriodEntry,
    PlayerQuest,
    PlayerScore,
    QuestPace,
    QuestTotals,
    ScoreBin,
    SessionSummary,
    Sparkline,
)

__all__ = [
    "AuditAction",
    "AuditEvent",
    "AuditOutcome",
    "BatchResult",
    "BoardSummary",
    "CacheCounts",
    "CacheStats",
    "Candle",
    "Health",
    "LeaderboardEntry",
    "LeaderboardUpdate",
    "MarketEvent",
    "MarketReturn",
    "PartitionReport",
    "PeriodBoard",
    "PeriodEntry",
    "PlayerQuest",
    "PlayerScore",
    "PlayerSession",
    "PoolStats",
    "PoolUse",
    "Portfolio",
    "PortfolioUpdate",
    "Position",
    "Quest",
    "QuestPace",
    "QuestTotals",
    "Record",
    "ScoreBin",
    "SessionSummary",
    "Sparkline",
    "StatementFigures",
    "TableFigures",
    "Tick",
    "Trade",
    "UnusedIndex",
    "User",
    "freeze",
]
