#!/bin/bash
# Accounting: MariaDB and slurmdbd, started in the controller's namespaces by init.sh. $1: the cluster's directory.
# MariaDB listens on 127.0.0.1 of the controller's own network namespace, so that nothing clashes.
set -eu
DIR=$1 DATA=$1/mysql SOCKET=$1/run/mysql.sock
sql() { mariadb --no-defaults -uroot -S "$SOCKET" -e "$1"; }
mkdir -p "$DATA"
[ -d "$DATA/mysql" ] || mariadb-install-db --no-defaults --user=root --datadir="$DATA" \
  --auth-root-authentication-method=normal --skip-test-db >"$DIR/log/mysql-install.log" 2>&1
mariadbd --no-defaults --user=root --datadir="$DATA" --socket="$SOCKET" --pid-file="$DIR/run/mysql.pid" \
  --bind-address=127.0.0.1 --port=3306 --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=0 \
  --skip-log-bin </dev/null >"$DIR/log/mysql.log" 2>&1 &
for _ in $(seq 600); do sql 'select 1' >/dev/null 2>&1 && break; sleep .05; done
sql "create database if not exists slurm_acct_db"
for host in localhost 127.0.0.1; do
  sql "create user if not exists slurm@'$host' identified by 'x'; grant all on slurm_acct_db.* to slurm@'$host'"
done
slurmdbd
for _ in $(seq 400); do sacctmgr -n -P list cluster >/dev/null 2>&1 && break; sleep .05; done
for what in "cluster yp" "account test" "user root account=test"; do
  # shellcheck disable=SC2086  # several words
  sacctmgr -i add $what >/dev/null 2>&1 || true
done
