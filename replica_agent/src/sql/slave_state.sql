select state from pyreplica.slave where agent = $1 and name = $2
