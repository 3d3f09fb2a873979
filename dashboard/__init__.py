"""The product team's view of the game: leaderboards and portfolios in a browser.

Every page is data function -> pure frame or chart builder -> Streamlit call.
Owns presentation only: it calls the service and never holds SQL or a Redis command.
"""
