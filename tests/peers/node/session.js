// A session of etcd3, the Node client library. Prints what it sees; revisions are those of a store that was empty before.
'use strict';

const readline = require('node:readline');
const { once } = require('node:events');
const { setTimeout: pause } = require('node:timers/promises');
const { Etcd3, Range, isRecoverableError } = require('etcd3');

const connect = auth => new Etcd3({ hosts: process.argv[2], auth, grpcOptions: { 'grpc.max_receive_message_length': 64 << 20 } });

// The text of a refusal, without what the transport puts around it.
async function refusal(call) {
  try {
    await call();
  } catch (error) {
    return `${error.constructor.name} ${error.message}`;
  }
  return 'none';
}

const kvOf = kv => `${kv.key}=${kv.value} c${kv.create_revision} m${kv.mod_revision} v${kv.version}`;

async function basics(client) {
  console.log('put rev', (await client.put('a').value('1')).header.revision);
  const put = await client.put('a').value('2').getPrevious();
  console.log('put was', put.value.toString());
  console.log('get', kvOf((await client.get('a').exec()).kvs[0]));
  const old = await client.get('a').revision(2).exec();
  console.log('get old', old.kvs[0].value.toString(), 'rev', old.header.revision);
  console.log('get none', await client.get('none').string());
  console.log('get future:', await refusal(() => client.get('a').revision(1000).exec()));
  console.log('put nothing:', await refusal(() => client.put('').value('x')));
  for (let i = 0; i < 25; i++) {
    await client.put(`p/${String(i).padStart(2, '0')}`).value(i);
  }
  const last = await client.getAll().prefix('p/').sort('Key', 'Descend').limit(2).exec();
  console.log('last two', last.kvs.map(kv => kv.key.toString()).join(' '), 'of', last.count);
  console.log('counted', await client.getAll().prefix('p/2').count());
  console.log('keys', (await client.getAll().prefix('p/0').keys()).join(' '));
  let [from, paged, more] = ['p/', 0, true];
  while (more) {
    const page = await client.getAll().inRange(new Range(from, 'p0')).limit(10).exec();
    paged += page.kvs.length;
    more = page.more;
    console.log('page of', page.kvs.length, 'left', page.count, 'more', more);
    from = Buffer.concat([page.kvs.at(-1).key, Buffer.from([0])]).toString();
  }
  console.log('paged', paged);
  const deleted = await client.delete().prefix('p/1').exec();
  console.log('deleted', deleted.deleted);
  await client.kv.compact({ revision: deleted.header.revision, physical: true });
  console.log('get compacted:', await refusal(() => client.get('a').revision(2).exec()));
}

async function transactions(client) {
  const txn = await client.if('a', 'Value', '==', '2').and('none', 'Create', '==', 0)
    .then(client.put('t').value('yes'), client.get('a')).else(client.put('t').value('no')).commit();
  console.log('txn', txn.succeeded, txn.responses.length, 'rev', txn.header.revision);
  const other = await client.if('t', 'Version', '>', 5).then(client.put('t').value('no')).else(client.get('t')).commit();
  console.log('txn', other.succeeded, other.responses[0].response_range.kvs[0].value.toString());
  const twice = client.if('t', 'Version', '>', 0).then(client.put('t').value('1'), client.put('t').value('2'));
  console.log('txn twice:', await refusal(() => twice.commit()));
  await client.stm().transact(async tx => tx.put('stm').value(`${await tx.get('t')}!`));
  console.log('stm', await client.get('stm').string());
}

async function sizes(client) {
  await client.put('large').value('x'.repeat(1 << 20));
  console.log('large', (await client.get('large').string()).length);
  console.log('too large:', await refusal(() => client.put('large').value('x'.repeat(3 << 19)).exec()));
  await client.delete().key('large');
}

async function leases(client) {
  const lease = client.lease(2);
  const watcher = await client.watch().key('leased').only('delete').create();
  const gone = once(watcher, 'delete');
  await lease.put('leased').value('1');
  let renewed = 0;
  lease.on('keepaliveSucceeded', () => renewed++);
  // Longer than the lease would live without.
  while (renewed < 4) {
    await once(lease, 'keepaliveSucceeded');
  }
  console.log('alive', await client.get('leased').string());
  // Lets go of it without revoking it.
  lease.release();
  const [event] = await gone;
  console.log('expired', event.key.toString());
  await watcher.cancel();
  const id = await lease.grant();
  console.log('left', (await client.leaseClient.leaseTimeToLive({ ID: id, keys: true })).TTL);
  console.log('attach:', await refusal(() => client.put('leased').value('1').lease(id).exec()));
  const other = client.lease(600);
  await other.put('leased').value('2');
  console.log('leases', (await client.leaseClient.leaseLeases()).leases.length);
  await other.revoke();
  console.log('revoked', await client.get('leased').string());
}

async function locks(client) {
  const [first, second] = [client.lock('lock'), client.lock('lock')];
  await first.acquire();
  console.log('second:', await refusal(() => second.acquire()));
  await first.release();
  await client.lock('lock').do(async () => console.log('lock passed on'));

  const election = client.election('elect');
  const one = election.campaign('one');
  await one.wait();
  const observer = await election.observe();
  console.log('leader', observer.leader());
  const other = election.campaign('other');
  await other.getCampaignKey();
  const changed = once(observer, 'change');
  await one.resign();
  await other.wait();
  console.log('leader', (await changed)[0]);
  await observer.cancel();
  await other.resign();
}

async function restarts(client) {
  const watcher = await client.watch().prefix('w/').withPreviousKV().create();
  const before = once(watcher, 'put');
  await client.put('w/1').value('before');
  console.log('watched', (await before)[0].value.toString());
  const reconnected = once(watcher, 'disconnected');
  console.log('RESTART');
  await once(readline.createInterface({ input: process.stdin }), 'line');
  await reconnected;
  const after = once(watcher, 'put');
  for (;;) {
    try {
      await client.put('w/1').value('after');
      break;
    } catch (error) {
      if (!isRecoverableError(error)) throw error;
      await pause(50);
    }
  }
  const [event, was] = await after;
  console.log('watched', event.value.toString(), 'was', was.value.toString());
  console.log('kept', await client.get('a').string());
  await watcher.cancel();
}

async function auth(client) {
  console.log('enable:', await refusal(() => client.auth.authEnable()));
  const reader = await client.role('reader').create();
  await reader.grant({ permission: 'Read', range: Range.prefix('p/') });
  for (const [name, password, role] of [['root', 'secret', 'root'], ['joe', 'pass', 'reader']]) {
    const user = await client.user(name).create(password);
    await user.addRole(role);
  }
  await client.auth.authEnable();
  console.log('unnamed:', await refusal(() => client.get('p/00').exec()));
  const joe = connect({ username: 'joe', password: 'pass' });
  console.log('joe reads', await joe.get('p/00').string());
  console.log('joe writes:', await refusal(() => joe.put('p/00').value('x').exec()));
  console.log('joe reads elsewhere:', await refusal(() => joe.get('a').exec()));
  const wrong = connect({ username: 'joe', password: 'wrong' });
  console.log('wrong password:', await refusal(() => wrong.get('p/00').exec()));
  const root = connect({ username: 'root', password: 'secret' });
  const names = all => all.map(one => one.name).join(' ');
  console.log('users', names(await root.getUsers()), 'roles', names(await root.getRoles()));
  await root.auth.authDisable();
  console.log('open again', await client.get('p/00').string());
  for (const each of [joe, wrong, root]) each.close();
}

async function main() {
  const parts = { basics, transactions, sizes, leases, locks, auth, restarts };
  const client = connect();
  for (const part of process.argv.slice(3)) {
    await parts[part](client);
  }
  client.close();
  console.log('done');
}

main().then(
  () => process.exit(0),
  error => {
    console.error(error);
    process.exit(1);
  },
);
