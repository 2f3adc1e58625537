"""Admission webhooks: every replica of the operator answers the API server, whoever leads.

`review` and `checks` are pure, `certificates` and `registration` decide what is to be stored;
`keeper`, `cell` and `server` do the talking, and `service` puts them together.
"""
