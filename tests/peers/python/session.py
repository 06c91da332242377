"""A session of etcd3, the Python client library. Prints what it sees; revisions are those of a store that was empty."""

import sys
import threading
import time

import etcd3
import grpc
from etcd3 import etcdrpc
from etcd3.etcdrpc import auth_pb2

HOST, PORT = sys.argv[1].removeprefix("http://").rsplit(":", 1)
# The library ends every call after this many seconds, watches excepted.
TIMEOUT = 60


def connect(user=None, password=None):
    options = {"grpc.max_receive_message_length": 64 << 20}.items()
    client = etcd3.client(
        host=HOST, port=int(PORT), timeout=TIMEOUT, user=user, password=password, grpc_options=options
    )
    # The token is in the metadata. That it is also in credentials of the call is refused by the transport without TLS.
    client.call_credentials = None
    return client


def refusal(call):
    """The text of a refusal: the library hides some of them behind errors of its own."""
    try:
        call()
    except grpc.RpcError as error:
        return f"{error.code().name} {error.details()}"
    except etcd3.exceptions.Etcd3Exception as error:
        return f"{type(error).__name__} {error}".strip()
    return "none"


def retried(call):
    """Calls until the server is there."""
    end = time.monotonic() + TIMEOUT
    while True:
        try:
            return call()
        except etcd3.exceptions.Etcd3Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def range_of(client, start, end, **options):
    """A range with the options that the library does not pass on."""
    request = etcdrpc.RangeRequest(key=start.encode(), range_end=end.encode(), **options)
    return client.kvstub.Range(request, TIMEOUT)


def basics(client):
    print("put rev", client.put("a", "1").header.revision)
    put = client.put("a", "2", prev_kv=True)
    print("put rev", put.header.revision, "was", put.prev_kv.value.decode())
    value, meta = client.get("a")
    print("get", meta.key.decode(), value.decode(), meta.create_revision, meta.mod_revision, meta.version)
    old = range_of(client, "a", "b", revision=2)
    print("get old", old.kvs[0].value.decode(), "rev", old.header.revision)
    print("get none", client.get("none"))
    print("get future:", refusal(lambda: range_of(client, "a", "b", revision=1000)))
    print("put nothing:", refusal(lambda: client.put("", "x")))
    for i in range(25):
        client.put(f"p/{i:02}", str(i))
    last = client.get_prefix_response("p/", sort_order="descend")
    print("last two", *(kv.key.decode() for kv in last.kvs[:2]), "of", last.count)
    start, paged, more = "p/", 0, True
    while more:
        page = range_of(client, start, "p0", limit=10)
        paged, more = paged + len(page.kvs), page.more
        print("page of", len(page.kvs), "left", page.count, "more", more)
        start = page.kvs[-1].key.decode() + "\0"
    print("paged", paged)
    deleted = client.delete_prefix("p/1")
    print("deleted", deleted.deleted)
    client.compact(deleted.header.revision, physical=True)
    print("get compacted:", refusal(lambda: range_of(client, "a", "b", revision=2)))
    print("replace", client.replace("a", "2", "3"), client.replace("a", "2", "4"))
    print("put if not exists", client.put_if_not_exists("a", "5"), client.put_if_not_exists("b", "1"))
    print("status", client.status().version.rsplit(".", 1)[0], "members", len(list(client.members)))


def transactions(client):
    of = client.transactions
    done, answers = client.transaction(
        compare=[of.value("a") == "3", of.create("none") == 0],
        success=[of.put("t", "yes"), of.get("a")],
        failure=[of.put("t", "no")],
    )
    print("txn", done, len(answers), answers[1][0][0].decode())
    done, answers = client.transaction(
        compare=[of.version("t") > 5], success=[of.put("t", "no")], failure=[of.get("t"), of.delete("none")]
    )
    print("txn", done, answers[0][0][0].decode())
    twice = [of.put("t", "1"), of.put("t", "2")]
    print("txn twice:", refusal(lambda: client.transaction(compare=[], success=twice, failure=[])))


def sizes(client):
    client.put("large", "x" * (1 << 20))
    print("large", len(client.get("large")[0]))
    print("too large:", refusal(lambda: client.put("large", "x" * (3 << 19))))
    for i in range(8):
        client.put(f"large{i}", "x" * (1 << 20))
    values = [value for value, _ in client.get_prefix("large")]
    print("all of", len(values), "bytes", sum(map(len, values)))
    client.delete_prefix("large")


def leases(client):
    lease = client.lease(2)
    print("lease for", lease.ttl)
    events, cancel = client.watch("leased")
    client.put("leased", "1", lease=lease)
    # Longer than the lease would live without.
    for _ in range(5):
        assert [answer.TTL for answer in lease.refresh()] == [2]
        time.sleep(0.7)
    print("alive", lease.remaining_ttl >= 0, "keys", len(lease.keys), "value", client.get("leased")[0].decode())
    for event in events:
        if isinstance(event, etcd3.events.DeleteEvent):
            print("expired", event.key.decode())
            break
    cancel()
    print("left", client.get_lease_info(lease.id).TTL)
    print("renew", [answer.TTL for answer in lease.refresh()])
    print("attach:", refusal(lambda: client.put("leased", "1", lease=lease)))
    other = client.lease(600, lease_id=77)
    client.put("leased", "2", lease=other)
    print("again:", refusal(lambda: client.lease(600, lease_id=77)))
    other.revoke()
    print("revoked", client.get("leased"))


def locks(client):
    first, second = client.lock("lock", ttl=60), client.lock("lock", ttl=60)
    print("lock", first.acquire(), "held", first.is_acquired())
    print("second", second.acquire(timeout=0.5))
    waits = threading.Thread(target=lambda: second.acquire(timeout=30))
    waits.start()
    print("release", first.release())
    waits.join()
    print("passed on", second.is_acquired(), first.is_acquired())
    with client.lock("other", ttl=60) as lock:
        print("with", lock.is_acquired())
    second.release()


def restarts(client):
    events, cancel = client.watch_prefix("w/")
    client.put("w/1", "before")
    event = next(events)
    print("watched", event.value.decode())
    print("RESTART", flush=True)
    sys.stdin.readline()
    # This library leaves it to its user to go on after the last revision.
    try:
        print("cut off", next(events, "ended"))
    except etcd3.exceptions.Etcd3Exception as error:
        print("cut off", type(error).__name__)
    client.close()
    client = connect()
    retried(lambda: client.put("w/1", "after"))
    events, cancel = client.watch_prefix("w/", start_revision=event.mod_revision + 1)
    print("watched", next(events).value.decode())
    cancel()
    print("kept", client.get("a")[0].decode())


def auth(client):
    # The library logs in and sends the token; to manage users it has no calls but the generated ones.
    manage = etcdrpc.AuthStub(client.channel)
    print("enable:", refusal(lambda: manage.AuthEnable(etcdrpc.AuthEnableRequest())))
    manage.RoleAdd(etcdrpc.AuthRoleAddRequest(name="reader"))
    permission = auth_pb2.Permission(permType=auth_pb2.Permission.READ, key=b"p/", range_end=b"p0")
    manage.RoleGrantPermission(etcdrpc.AuthRoleGrantPermissionRequest(name="reader", perm=permission))
    for user, password, role in (("root", "secret", "root"), ("joe", "pass", "reader")):
        manage.UserAdd(etcdrpc.AuthUserAddRequest(name=user, password=password))
        manage.UserGrantRole(etcdrpc.AuthUserGrantRoleRequest(user=user, role=role))
    manage.AuthEnable(etcdrpc.AuthEnableRequest())
    print("unnamed:", refusal(lambda: client.get("p/00")))
    joe = connect("joe", "pass")
    print("joe reads", joe.get("p/00")[0].decode())
    print("joe writes:", refusal(lambda: joe.put("p/00", "x")))
    print("joe reads elsewhere:", refusal(lambda: joe.get("a")))
    print("wrong password:", refusal(lambda: connect("joe", "wrong")))
    root = connect("root", "secret")
    manage = etcdrpc.AuthStub(root.channel)
    users = manage.UserList(etcdrpc.AuthUserListRequest(), metadata=root.metadata)
    print("users", list(users.users))
    manage.AuthDisable(etcdrpc.AuthDisableRequest(), metadata=root.metadata)
    print("open again", client.get("p/00")[0].decode())


def main():
    client = connect()
    parts = {part.__name__: part for part in (basics, transactions, sizes, leases, locks, auth, restarts)}
    for name in sys.argv[2:]:
        parts[name](client)
    print("done", flush=True)


main()
