"""Access: scopes, tokens and TLS, from the file that an operator writes to the header and the context."""
