"""The players page: attendance, retention and silent players."""
