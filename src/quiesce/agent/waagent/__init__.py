"""The Azure Linux agent from the host side: it polls, and what it asks for is answered here."""
