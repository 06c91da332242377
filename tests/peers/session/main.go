// A session of etcd's own Go client, with its concurrency helpers. Prints what it sees; revisions are those of a store
// that was empty before.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

var ctx context.Context

func connect(user, password string) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{
		Endpoints: strings.Split(os.Args[1], ","), DialTimeout: 10 * time.Second, Username: user, Password: password,
	})
	check(err)
	return client
}

func check(err error) {
	if err != nil {
		log.Panicln(err)
	}
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func pair(key, value []byte, create, mod, version int64) string {
	return fmt.Sprintf("%s=%s c%d m%d v%d", key, value, create, mod, version)
}

func basics(client *clientv3.Client) {
	put := must(client.Put(ctx, "a", "1"))
	fmt.Println("put rev", put.Header.Revision)
	put = must(client.Put(ctx, "a", "2", clientv3.WithPrevKV()))
	fmt.Println("put rev", put.Header.Revision, "was", string(put.PrevKv.Value))
	got := must(client.Get(ctx, "a"))
	kv := got.Kvs[0]
	fmt.Println("get", pair(kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version))
	old := must(client.Get(ctx, "a", clientv3.WithRev(put.Header.Revision-1)))
	fmt.Println("get old", string(old.Kvs[0].Value), "rev", old.Header.Revision)
	fmt.Println("get none", must(client.Get(ctx, "none")).Count)
	_, err := client.Get(ctx, "a", clientv3.WithRev(1000))
	fmt.Println("get future:", err)
	_, err = client.Put(ctx, "", "x")
	fmt.Println("put nothing:", err)
	for i := range 25 {
		must(client.Put(ctx, fmt.Sprintf("p/%02d", i), fmt.Sprint(i)))
	}
	descending := must(client.Get(ctx, "p/", clientv3.WithPrefix(), clientv3.WithLimit(2),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend)))
	fmt.Println("last two", string(descending.Kvs[0].Key), string(descending.Kvs[1].Key), "of", descending.Count)
	fmt.Println("keys only", len(must(client.Get(ctx, "p/1", clientv3.WithPrefix(), clientv3.WithKeysOnly())).Kvs[0].Value))
	fmt.Println("from key", must(client.Get(ctx, "p/2", clientv3.WithFromKey(), clientv3.WithCountOnly())).Count)
	from, end, pages := "p/", clientv3.GetPrefixRangeEnd("p/"), 0
	for more := true; more; {
		page := must(client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(10)))
		pages, more = pages+len(page.Kvs), page.More
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
		fmt.Println("page of", len(page.Kvs), "left", page.Count, "more", more)
	}
	fmt.Println("paged", pages)
	deleted := must(client.Delete(ctx, "p/1", clientv3.WithPrefix(), clientv3.WithPrevKV()))
	fmt.Println("deleted", deleted.Deleted, "first was", string(deleted.PrevKvs[0].Value), "rev", deleted.Header.Revision)
	compacted := deleted.Header.Revision
	must(client.Compact(ctx, compacted, clientv3.WithCompactPhysical()))
	_, err = client.Get(ctx, "a", clientv3.WithRev(2))
	fmt.Println("get compacted:", err)
}

func transactions(client *clientv3.Client) {
	answer := must(client.Txn(ctx).
		If(clientv3.Compare(clientv3.Value("a"), "=", "2"), clientv3.Compare(clientv3.CreateRevision("none"), "=", 0)).
		Then(clientv3.OpPut("t", "yes"), clientv3.OpGet("a"), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut("nested", "1")}, nil)).
		Else(clientv3.OpPut("t", "no")).Commit())
	fmt.Println("txn", answer.Succeeded, len(answer.Responses), "rev", answer.Header.Revision)
	answer = must(client.Txn(ctx).If(clientv3.Compare(clientv3.Version("t"), ">", 5)).
		Then(clientv3.OpPut("t", "no")).Else(clientv3.OpGet("t")).Commit())
	fmt.Println("txn", answer.Succeeded, string(answer.Responses[0].GetResponseRange().Kvs[0].Value))
	_, err := client.Txn(ctx).Then(clientv3.OpPut("t", "1"), clientv3.OpPut("t", "2")).Commit()
	fmt.Println("txn twice:", err)
	tried := must(concurrency.NewSTM(client, func(stm concurrency.STM) error {
		stm.Put("stm", stm.Get("t")+"!")
		return nil
	}))
	fmt.Println("stm", tried.Succeeded, string(must(client.Get(ctx, "stm")).Kvs[0].Value))
}

func sizes(client *clientv3.Client) {
	must(client.Put(ctx, "large", strings.Repeat("x", 1<<20)))
	fmt.Println("large", len(must(client.Get(ctx, "large")).Kvs[0].Value))
	_, err := client.Put(ctx, "large", strings.Repeat("x", 3<<19))
	fmt.Println("too large:", err)
	for i := range 8 {
		must(client.Put(ctx, fmt.Sprintf("large%d", i), strings.Repeat("x", 1<<20)))
	}
	all := must(client.Get(ctx, "large", clientv3.WithPrefix()))
	size := 0
	for _, kv := range all.Kvs {
		size += len(kv.Value)
	}
	fmt.Println("all of", len(all.Kvs), "bytes", size)
	must(client.Delete(ctx, "large", clientv3.WithPrefix()))
}

func leases(client *clientv3.Client) {
	lease := must(client.Grant(ctx, 2))
	fmt.Println("lease for", lease.TTL)
	gone := client.Watch(ctx, "leased")
	must(client.Put(ctx, "leased", "1", clientv3.WithLease(lease.ID)))
	stop, cancel := context.WithCancel(ctx)
	answers := must(client.KeepAlive(stop, lease.ID))
	// Several renewals, at the pace of the client: longer than the lease would live without.
	for range 4 {
		if answer := <-answers; answer.TTL != 2 {
			log.Panicln("renewed for", answer.TTL)
		}
	}
	left := must(client.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys()))
	fmt.Println("alive", left.TTL >= 0, "keys", len(left.Keys), "value", string(must(client.Get(ctx, "leased")).Kvs[0].Value))
	cancel()
	for answer := range gone {
		last := answer.Events[len(answer.Events)-1]
		if last.Type == clientv3.EventTypeDelete {
			fmt.Println("expired", string(last.Kv.Key))
			break
		}
	}
	fmt.Println("left", must(client.TimeToLive(ctx, lease.ID)).TTL)
	_, err := client.KeepAliveOnce(ctx, lease.ID)
	fmt.Println("renew:", err)
	_, err = client.Put(ctx, "leased", "1", clientv3.WithLease(lease.ID))
	fmt.Println("attach:", err)
	other := must(client.Grant(ctx, 600))
	must(client.Put(ctx, "leased", "2", clientv3.WithLease(other.ID)))
	fmt.Println("leases", len(must(client.Leases(ctx)).Leases))
	must(client.Revoke(ctx, other.ID))
	fmt.Println("revoked", must(client.Get(ctx, "leased")).Count)
}

func locks(client *clientv3.Client) {
	one, other := must(concurrency.NewSession(client)), must(concurrency.NewSession(client))
	first, second := concurrency.NewMutex(one, "lock"), concurrency.NewMutex(other, "lock")
	check(first.Lock(ctx))
	fmt.Println("try:", second.TryLock(ctx))
	waits := make(chan error)
	go func() { waits <- second.Lock(ctx) }()
	check(first.Unlock(ctx))
	check(<-waits)
	fmt.Println("lock passed on")
	check(second.Unlock(ctx))

	leader, follower := concurrency.NewElection(one, "elect"), concurrency.NewElection(other, "elect")
	check(leader.Campaign(ctx, "one"))
	fmt.Println("leader", string(must(follower.Leader(ctx)).Kvs[0].Value))
	check(leader.Proclaim(ctx, "one again"))
	fmt.Println("leader", string((<-follower.Observe(ctx)).Kvs[0].Value))
	go func() { waits <- follower.Campaign(ctx, "other") }()
	check(leader.Resign(ctx))
	check(<-waits)
	fmt.Println("leader", string(must(leader.Leader(ctx)).Kvs[0].Value))
	check(follower.Resign(ctx))
	_, err := leader.Leader(ctx)
	fmt.Println("nobody:", err)
	check(one.Close())
	check(other.Close())
}

func restarts(client *clientv3.Client) {
	watch := client.Watch(ctx, "w/", clientv3.WithPrefix(), clientv3.WithPrevKV())
	next := func() *clientv3.Event {
		answer := <-watch
		check(answer.Err())
		return answer.Events[0]
	}
	must(client.Put(ctx, "w/1", "before"))
	fmt.Println("watched", string(next().Kv.Value))
	fmt.Println("RESTART")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		log.Panicln(err)
	}
	for {
		_, err := client.Put(ctx, "w/1", "after")
		if err == nil {
			break
		}
		if errors.Is(err, context.DeadlineExceeded) {
			log.Panicln(err)
		}
	}
	event := next()
	fmt.Println("watched", string(event.Kv.Value), "was", string(event.PrevKv.Value))
	fmt.Println("kept", string(must(client.Get(ctx, "a")).Kvs[0].Value))
}

func auth(client *clientv3.Client) {
	_, err := client.AuthEnable(ctx)
	fmt.Println("enable:", err)
	must(client.RoleAdd(ctx, "reader"))
	must(client.RoleGrantPermission(ctx, "reader", "p/", clientv3.GetPrefixRangeEnd("p/"), clientv3.PermissionType(clientv3.PermRead)))
	for _, user := range [][3]string{{"root", "secret", "root"}, {"joe", "pass", "reader"}} {
		must(client.UserAdd(ctx, user[0], user[1]))
		must(client.UserGrantRole(ctx, user[0], user[2]))
	}
	must(client.AuthEnable(ctx))
	_, err = client.Get(ctx, "p/00")
	fmt.Println("unnamed:", err)
	joe := connect("joe", "pass")
	fmt.Println("joe reads", string(must(joe.Get(ctx, "p/00")).Kvs[0].Value))
	_, err = joe.Put(ctx, "p/00", "x")
	fmt.Println("joe writes:", err)
	_, err = joe.Get(ctx, "a")
	fmt.Println("joe reads elsewhere:", err)
	_, err = clientv3.New(clientv3.Config{Endpoints: strings.Split(os.Args[1], ","), DialTimeout: 10 * time.Second, Username: "joe", Password: "wrong"})
	fmt.Println("wrong password:", err)
	root := connect("root", "secret")
	fmt.Println("users", must(root.UserList(ctx)).Users, "roles", must(root.RoleList(ctx)).Roles)
	must(root.AuthDisable(ctx))
	fmt.Println("open again", must(client.Get(ctx, "p/00")).Count)
	joe.Close()
	root.Close()
}

func main() {
	log.SetFlags(0)
	var done context.CancelFunc
	ctx, done = context.WithTimeout(context.Background(), 90*time.Second)
	defer done()
	client := connect("", "")
	defer client.Close()
	for _, part := range os.Args[2:] {
		map[string]func(*clientv3.Client){
			"basics": basics, "transactions": transactions, "sizes": sizes, "leases": leases, "locks": locks,
			"auth": auth, "restarts": restarts, "rolling": rolling,
		}[part](client)
	}
	fmt.Println("done")
}
