"""What a ranking service needs to ask a moontide server, over HTTP or Arrow Flight: no Feast, no Spark, no torch."""
