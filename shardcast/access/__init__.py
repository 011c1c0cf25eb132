"""Access: scopes, tokens and TLS, from an operator's file to the header and the context."""
