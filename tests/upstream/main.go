// Upstream's own plugin code, asked about snapshots: which nodes are feasible for a pod, and how each plugin scores them.
//
// Reads one snapshot a line from standard input, as JSON, and answers each with one line: the weighted score of every
// plugin for every feasible node.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
)

type snapshot struct {
	Nodes      []*v1.Node      `json:"nodes"`
	Pods       []*v1.Pod       `json:"pods"`
	Namespaces []*v1.Namespace `json:"namespaces"`
	// The pod to place.
	Pod *v1.Pod `json:"pod"`
}

type answer struct {
	Feasible map[string]map[string]int64 `json:"feasible"`
}

// The default profile's plugins with their weights, without volumes and dynamic resources, which snapshots have none of.
var enabled = []config.Plugin{
	{Name: "PrioritySort"}, {Name: "NodeUnschedulable"}, {Name: "NodeName"}, {Name: "TaintToleration", Weight: 3},
	{Name: "NodeAffinity", Weight: 2}, {Name: "NodePorts"}, {Name: "NodeResourcesFit", Weight: 1},
	{Name: "PodTopologySpread", Weight: 2}, {Name: "InterPodAffinity", Weight: 2},
	{Name: "NodeResourcesBalancedAllocation", Weight: 1}, {Name: "ImageLocality", Weight: 1}, {Name: "DefaultBinder"},
}

func check(ctx context.Context, s *snapshot) (*answer, error) {
	defaults, err := latest.Default()
	if err != nil {
		return nil, err
	}
	profile := defaults.Profiles[0]
	profile.Plugins = &config.Plugins{MultiPoint: config.PluginSet{Enabled: enabled}}
	var args []config.PluginConfig
	for _, one := range profile.PluginConfig {
		for _, plugin := range enabled {
			if one.Name == plugin.Name {
				args = append(args, one)
			}
		}
	}
	profile.PluginConfig = args

	var objects []runtime.Object
	for _, namespace := range s.Namespaces {
		objects = append(objects, namespace)
	}
	client := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(client, 0)
	shared := cache.NewSnapshot(s.Pods, s.Nodes)
	scheduler, err := frameworkruntime.NewFramework(ctx, plugins.NewInTreeRegistry(), &profile,
		frameworkruntime.WithClientSet(client), frameworkruntime.WithInformerFactory(factory),
		frameworkruntime.WithSnapshotSharedLister(shared))
	if err != nil {
		return nil, err
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())

	result := &answer{Feasible: map[string]map[string]int64{}}
	state := framework.NewCycleState()
	only, status, _ := scheduler.RunPreFilterPlugins(ctx, state, s.Pod)
	if status.IsRejected() {
		return result, nil
	}
	if !status.IsSuccess() {
		return nil, status.AsError()
	}
	all, err := shared.NodeInfos().List()
	if err != nil {
		return nil, err
	}
	var feasible []fwk.NodeInfo
	for _, node := range all {
		if !only.AllNodes() && !only.NodeNames.Has(node.Node().Name) {
			continue
		}
		status := scheduler.RunFilterPlugins(ctx, state, s.Pod, node)
		if status.Code() == fwk.Error {
			return nil, status.AsError()
		}
		if status.IsSuccess() {
			feasible = append(feasible, node)
			result.Feasible[node.Node().Name] = map[string]int64{}
		}
	}
	if len(feasible) == 0 {
		return result, nil
	}
	if status := scheduler.RunPreScorePlugins(ctx, state, s.Pod, feasible); !status.IsSuccess() {
		return nil, status.AsError()
	}
	scores, status := scheduler.RunScorePlugins(ctx, state, s.Pod, feasible)
	if !status.IsSuccess() {
		return nil, status.AsError()
	}
	for _, node := range scores {
		for _, score := range node.Scores {
			result.Feasible[node.Name][score.Name] = score.Score
		}
	}
	return result, nil
}

func run() error {
	klog.LogToStderr(false)
	klog.SetOutput(os.Stderr)
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var s snapshot
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(context.Background())
		result, err := check(ctx, &s)
		cancel()
		if err != nil {
			return err
		}
		line, err := json.Marshal(result)
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}
	return lines.Err()
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
