"""The HTTP front for clients of OpenAI: its routes, its forms and its errors. It decides nothing."""
