'use strict';
// A cluster of Node's, as the benches start servers: prints its address and its workers' process
// numbers on one line as soon as it takes connections, and ends at the end of its standard input.
// WORKERS is the number of workers, TASK what they do; NODE_CLUSTER_SCHED_POLICY is Node's own.

const cluster = require('node:cluster');

if (cluster.isPrimary) {
  const count = Number(process.env.WORKERS || 4);
  const workers = Array.from({ length: count }, () => cluster.fork());
  let listening = 0;
  cluster.on('listening', (_, address) => {
    listening += 1;
    if (listening === count) {
      const pids = workers.map((worker) => worker.process.pid);
      console.log([`127.0.0.1:${address.port}`, ...pids].join(' '));
    }
  });
  cluster.on('exit', (worker) => {
    throw new Error(`worker ${worker.id} ended`);
  });
  process.stdin.on('end', () => process.exit()).resume();
} else {
  const name = `${cluster.worker.id - 1}.1`;
  const stamp = (connection) => {
    // The monotonic clock of the system, as the client reads it.
    const takenNs = Buffer.alloc(8);
    takenNs.writeBigUInt64LE(process.hrtime.bigint());
    connection.on('error', () => {}).end(takenNs);
  };
  const answer = (request, response) => {
    response.sendDate = false;
    response.writeHead(200, {
      'content-type': 'text/plain',
      'content-length': 6,
      'x-worker': name,
    });
    response.end('hello\n');
  };
  const server = process.env.TASK === 'stamp'
    ? require('node:net').createServer({ noDelay: true }, stamp)
    : require('node:http').createServer({ keepAliveTimeout: 60_000 }, answer);
  process.on('disconnect', () => process.exit());
  server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 });
}
