#!/bin/bash
# Start one local job: record who runs it, then become it. Usage: local_start.sh JOB_FOLDER HOST
# The record is linked in whole and by one process only, so a master that died right after starting this finds the job
# again, and a second start of the same job ends here.
job=$1 host=$2
read -r stat </proc/$$/stat
read -ra fields <<<"${stat##*) }" # the fields after the program's name: the 20th of them is the start time
read -r boot </proc/sys/kernel/random/boot_id
printf '%s\n%s\n%s\n%s\n%s\n' "$$" "${fields[19]}" "$boot" "$host" "$job" >"$job/.process.$$" || exit 1
ln -- "$job/.process.$$" "$job/process" 2>/dev/null
taken=$?
rm -f -- "$job/.process.$$"
[ "$taken" -eq 0 ] || exit 0
exec "$BASH" -- "$job/job.sh" >"$job/stdout" 2>"$job/stderr" </dev/null
