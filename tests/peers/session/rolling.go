package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Works without a pause while the members are restarted one by one, until standard input ends. An error that says
// "unavailable" is answered by asking again, as clients do; any other ends the session. What was acknowledged must be
// read, and be watched once and in order.
func rolling(client *clientv3.Client) {
	const keys = 4
	var stopped atomic.Bool
	watching, end := context.WithCancel(ctx)
	watch := client.Watch(watching, "r/", clientv3.WithPrefix(), clientv3.WithProgressNotify())
	first := must(client.Put(ctx, "r/begin", "0")).Header.Revision
	var watched atomic.Int64
	go func() {
		last := int64(0)
		for answer := range watch {
			if answer.Err() != nil && watching.Err() == nil {
				log.Panicln("watch:", answer.Err())
			}
			for _, event := range answer.Events {
				revision := event.Kv.ModRevision
				if revision <= last || last != 0 && revision != last+1 {
					log.Panicln("watched revision", revision, "after", last)
				}
				last = revision
				watched.Store(last)
			}
		}
	}()
	fmt.Println("ROLLING")
	go func() {
		for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
		}
		stopped.Store(true)
	}()
	puts, gets, again, slowest := 0, 0, 0, time.Duration(0)
	ask := func(call func() error) {
		begun := time.Now()
		for {
			err := call()
			if err == nil {
				slowest = max(slowest, time.Since(begun))
				return
			}
			if status.Code(err) != codes.Unavailable {
				log.Panicln(err)
			}
			again++
		}
	}
	for number := 0; !stopped.Load(); number++ {
		key := fmt.Sprintf("r/%d", number%keys)
		ask(func() error {
			_, err := client.Put(ctx, key, strconv.Itoa(number))
			return err
		})
		puts++
		ask(func() error {
			got, err := client.Get(ctx, key)
			if err == nil && string(got.Kvs[0].Value) != strconv.Itoa(number) {
				log.Panicln(key, "is", string(got.Kvs[0].Value), "and", number, "was acknowledged")
			}
			return err
		})
		gets++
	}
	last := int64(0)
	ask(func() error {
		got, err := client.Get(ctx, "r/", clientv3.WithPrefix())
		if err == nil {
			for _, kv := range got.Kvs {
				last = max(last, kv.ModRevision)
			}
		}
		return err
	})
	for watched.Load() < last {
		if ctx.Err() != nil {
			log.Panicln("watched up to", watched.Load(), "of", last)
		}
		time.Sleep(10 * time.Millisecond)
	}
	end()
	fmt.Println(puts, "puts,", gets, "gets,", again, "asked again, slowest", slowest, "revisions from", first, "to", last)
}
