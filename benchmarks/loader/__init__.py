"""The bench's own loader, a process of its own: raw HTTP/1.1, and gRPC on raw HTTP/2, on uvloop.

Other than wrk it never hangs up on a request: it stops asking, and waits for every answer.
"""
