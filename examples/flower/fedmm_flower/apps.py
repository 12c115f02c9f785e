"""The two sides: Flower starts ``server`` on the SuperLink and ``silo`` on every SuperNode."""

from fedmm.deployment.flower import client_app, server_app

server = server_app()
silo = client_app()
