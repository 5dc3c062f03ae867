package gpu
import ("testing";"context";"encoding/json";"sort";"github.com/ellm-gpu/ellm-gpu/format";"github.com/ellm-gpu/ellm-gpu/internal/model";"github.com/ellm-gpu/ellm-gpu/internal/tokenizer";"github.com/ellm-gpu/ellm-gpu/internal/engine";"github.com/ellm-gpu/ellm-gpu/cpu";"strings";"os";"strconv")
func TestDbg(t *testing.T){
 f,err:=format.Open("/work/scratch/d/tiny.ellm"); if err!=nil{t.Fatal(err)}
 var cfg model.Config; json.Unmarshal(f.Meta().Config,&cfg)
 prog,err:=model.Build(&cfg,func(n string)bool{_,ok:=f.Tensor(n);return ok}); if err!=nil{t.Fatal(err)}
 sec,_:=f.Section("TOKN"); tk,err:=tokenizer.Unmarshal(sec); if err!=nil{t.Fatal(err)}
 ids:=tk.Encode("The old house",true,false)
 b,_:=os.ReadFile("/tmp/d/t.cpu.resident")
 for _,s:=range strings.Fields(string(b)){ s=strings.TrimPrefix(s,"\"tokens\":["); n,e:=strconv.Atoi(s); if e==nil{ids=append(ids,int32(n))}}
 t.Log(ids)
 for i:=0;i<4;i++ {
  var be engine.Backend
  if i<2 {be=cpu.New()} else {be=New(openEmu(t))}
  if err:=be.Load(context.Background(),f,prog,engine.LoadOptions{Plan:bothPlans[i%2],NCtx:100}); err!=nil{t.Fatal(err)}
  for n:=len(ids)-64+16;n<len(ids)-64+19;n++{
  be.Forward(context.Background(),ids[:n-1],0,0)
  l,err:=be.Forward(context.Background(),ids[n-1:n],n-1,1)
  if err!=nil{t.Fatal(err)}
  idx:=make([]int,len(l)); for j:=range idx{idx[j]=j}; sort.Slice(idx,func(a,b int)bool{return l[idx[a]]>l[idx[b]]})
  t.Log(n,idx[0],l[idx[0]],idx[1],l[idx[1]])
 }}
}
